"""Importing this module registers every operator."""

import skipjack.ops.cast
import skipjack.ops.linear
import skipjack.ops.pointwise
import skipjack.ops.quantize
import skipjack.ops.reduce
import skipjack.ops.softmax
import skipjack.ops.top_k
import skipjack.ops.unit_norm  # noqa: F401
