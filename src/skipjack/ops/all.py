"""Importing this module registers every operator."""

# ruff: noqa: F401
# pyright: reportUnusedImport=false

import skipjack.ops.cast
import skipjack.ops.fused
import skipjack.ops.linear
import skipjack.ops.loss
import skipjack.ops.pointwise
import skipjack.ops.quantize
import skipjack.ops.random
import skipjack.ops.reduce
import skipjack.ops.softmax
import skipjack.ops.top_k
import skipjack.ops.unit_norm
