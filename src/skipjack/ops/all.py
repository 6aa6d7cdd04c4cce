"""Importing this module registers every operator."""

# ruff: noqa: F401
# pyright: reportUnusedImport=false

import skipjack.ops.attention
import skipjack.ops.cache
import skipjack.ops.cast
import skipjack.ops.control
import skipjack.ops.conv
import skipjack.ops.fused
import skipjack.ops.image
import skipjack.ops.image_decoder
import skipjack.ops.index
import skipjack.ops.linear
import skipjack.ops.loss
import skipjack.ops.microsoft
import skipjack.ops.microsoft_attention
import skipjack.ops.microsoft_quant
import skipjack.ops.ml
import skipjack.ops.ml_models
import skipjack.ops.movement
import skipjack.ops.nms
import skipjack.ops.norm
import skipjack.ops.pointwise
import skipjack.ops.pool
import skipjack.ops.quantize
import skipjack.ops.random
import skipjack.ops.rearrange
import skipjack.ops.reduce
import skipjack.ops.rnn
import skipjack.ops.scatter
import skipjack.ops.sequence
import skipjack.ops.shape
import skipjack.ops.signal
import skipjack.ops.sizes
import skipjack.ops.slicing
import skipjack.ops.softmax
import skipjack.ops.text
import skipjack.ops.top_k
import skipjack.ops.unit_norm
