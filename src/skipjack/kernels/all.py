"""Importing this registers every lowering of the package."""

# ruff: noqa: F401
# pyright: reportUnusedImport=false

import skipjack.kernels.attention
import skipjack.kernels.baked_linear
import skipjack.kernels.blocked_copy
import skipjack.kernels.cache
import skipjack.kernels.column_pointwise
import skipjack.kernels.column_quantise
import skipjack.kernels.column_reorder
import skipjack.kernels.conv_block
import skipjack.kernels.conv_depthwise
import skipjack.kernels.conv_direct
import skipjack.kernels.conv_half
import skipjack.kernels.conv_plain
import skipjack.kernels.conv_transpose
import skipjack.kernels.conv_winograd
import skipjack.kernels.copy
import skipjack.kernels.gather
import skipjack.kernels.gemm
import skipjack.kernels.gemm_bits
import skipjack.kernels.gemm_half
import skipjack.kernels.integer_product
import skipjack.kernels.layout
import skipjack.kernels.local_response
import skipjack.kernels.matmul
import skipjack.kernels.movement
import skipjack.kernels.nms
import skipjack.kernels.non_zero
import skipjack.kernels.norms
import skipjack.kernels.pointwise
import skipjack.kernels.pool
import skipjack.kernels.pool_plain
import skipjack.kernels.put
import skipjack.kernels.quad_conv
import skipjack.kernels.quad_pointwise
import skipjack.kernels.quad_reorder
import skipjack.kernels.quantise
import skipjack.kernels.quantised_conv
import skipjack.kernels.quantised_pointwise
import skipjack.kernels.reduce
import skipjack.kernels.repack
import skipjack.kernels.resize
import skipjack.kernels.resize_blocked
import skipjack.kernels.rnn
import skipjack.kernels.rotary
import skipjack.kernels.rows
import skipjack.kernels.scan
import skipjack.kernels.sizes
import skipjack.kernels.softmax
import skipjack.kernels.sparse_conv
import skipjack.kernels.strided
import skipjack.kernels.take
import skipjack.kernels.top_k
import skipjack.kernels.window_block
import skipjack.kernels.winograd_block
