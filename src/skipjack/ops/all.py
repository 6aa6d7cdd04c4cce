"""Importing this module registers every operator."""

# ruff: noqa: F401
# pyright: reportUnusedImport=false

import skipjack.ops.cast
import skipjack.ops.control
import skipjack.ops.fused
import skipjack.ops.index
import skipjack.ops.linear
import skipjack.ops.loss
import skipjack.ops.movement
import skipjack.ops.pointwise
import skipjack.ops.quantize
import skipjack.ops.random
import skipjack.ops.rearrange
import skipjack.ops.reduce
import skipjack.ops.scatter
import skipjack.ops.sequence
import skipjack.ops.shape
import skipjack.ops.slicing
import skipjack.ops.softmax
import skipjack.ops.text
import skipjack.ops.top_k
import skipjack.ops.unit_norm
