"""The ordered list of passes, and the one function that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from skipjack.ir.graph import Attr, Graph
from skipjack.passes.absorb_transposes import AbsorbTransposes
from skipjack.passes.cancel_transposes import CancelTransposes
from skipjack.passes.canonicalise_attention import CanonicaliseAttention
from skipjack.passes.canonicalise_contractions import CanonicaliseContractions
from skipjack.passes.decompose_norms import DecomposeNorms
from skipjack.passes.decompose_quantised_operators import DecomposeQuantisedOperators
from skipjack.passes.decompose_selections import DecomposeSelections
from skipjack.passes.eliminate_dead_code import EliminateDeadCode
from skipjack.passes.expand_attention import ExpandAttention
from skipjack.passes.express_quantisation import ExpressQuantisation
from skipjack.passes.fold_batch_norms import FoldBatchNorms
from skipjack.passes.fold_constants import FoldConstants
from skipjack.passes.fold_pads import FoldPads
from skipjack.passes.fold_scales import FoldScales
from skipjack.passes.form_integer_contractions import FormIntegerContractions
from skipjack.passes.fuse_epilogues import FuseEpilogues
from skipjack.passes.fuse_pointwise import FusePointwise
from skipjack.passes.inline_constant_branches import InlineConstantBranches
from skipjack.passes.merge_common_subexpressions import MergeCommonSubexpressions
from skipjack.passes.move_codes import MoveCodes
from skipjack.passes.pack_weight_codes import PackWeightCodes
from skipjack.passes.propagate_types import PropagateTypes, remembering
from skipjack.passes.recognise_attention import RecogniseAttention
from skipjack.passes.recognise_normalization import RecogniseNormalization
from skipjack.passes.recognise_rotary import RecogniseRotary
from skipjack.passes.remove_dead_features import RemoveDeadFeatures
from skipjack.passes.remove_no_ops import RemoveNoOps
from skipjack.passes.replace_size_arithmetic import ReplaceSizeArithmetic
from skipjack.passes.share_kernels import ShareKernels
from skipjack.passes.shuffle_upsampling import ShuffleUpsampling
from skipjack.passes.unsign_codes import UnsignCodes
from skipjack.passes.unwrap_linear import UnwrapLinear
from skipjack.passes.widen_half import WidenHalf


class Pass(Protocol):
    """A rewrite of a verified graph: pure, with its options as fields."""

    @property
    def name(self) -> str: ...

    def apply(self, graph: Graph) -> Graph: ...


@dataclass(frozen=True)
class Options:
    """What a caller may change: names of passes to leave out, and whom to show the graph after each pass."""

    without: frozenset[str] = frozenset()
    on_stage: Callable[[str, Graph], None] | None = None


PASSES: tuple[Pass, ...] = (
    # First, so that every pattern and every kernel sees the f32 it knows.
    WidenHalf(),
    DecomposeNorms(),
    DecomposeSelections(),
    CanonicaliseAttention(),
    ExpandAttention(),
    InlineConstantBranches(),
    # Folding would make their weights floats.
    PackWeightCodes(),
    FoldConstants(),
    # Folding may have made conditions constant, and inlining makes more constants.
    InlineConstantBranches(),
    FoldConstants(),
    # Only after folding is what remains of shape arithmetic truly symbolic.
    ReplaceSizeArithmetic(),
    RemoveNoOps(),
    MergeCommonSubexpressions(),
    DecomposeQuantisedOperators(),
    MoveCodes(),
    # Weights have moved as well.
    FoldConstants(),
    UnsignCodes(),
    # Before products of floats take what is left.
    FormIntegerContractions(),
    # Weights that were kept for integer products which did not form.
    FoldConstants(),
    # Gemm leaves an Add, BatchNormalization a Mul and an Add; fold_scales takes all of them in.
    CanonicaliseContractions(),
    RecogniseNormalization(),
    # Rotations go before the split into heads, so that attention finds the split right before it; they are found by
    # concatenations, which transposes would move through.
    RecogniseRotary(),
    MergeCommonSubexpressions(),
    CancelTransposes(),
    # Attention expects that only transposes of heads are left before its products.
    AbsorbTransposes(),
    RecogniseAttention(),
    FoldPads(),
    FoldBatchNorms(),
    FoldScales(),
    ShuffleUpsampling(),
    # A bias is part of the layer by now, so nothing stands between the layer and its reshapes.
    UnwrapLinear(),
    ExpressQuantisation(),
    # Every pattern above names operators; from here on elementwise ones are anonymous expressions.
    FusePointwise(),
    FuseEpilogues(),
    # With epilogues in place, what a feature without weights becomes is one expression.
    RemoveDeadFeatures(),
    EliminateDeadCode(),
    # Last, so that nothing turns the numbers back.
    ShareKernels(),
)


def run(graph: Graph, options: Options = Options(), passes: Sequence[Pass] = PASSES) -> Graph:
    """The graph after all passes; every value of the result has its type."""
    with remembering():
        graph = PropagateTypes().apply(graph)
        for step in passes:
            if step.name in options.without:
                continue
            graph = apply_everywhere(step, graph)
            if options.on_stage is not None:
                options.on_stage(step.name, graph)
    return graph


def apply_everywhere(step: Pass, graph: Graph) -> Graph:
    """The pass applied to the bodies of control flow first, then to the graph itself."""
    if isinstance(step, ReplaceSizeArithmetic):
        return step.apply(graph)
    nodes = list(graph.nodes)
    for i, node in enumerate(nodes):
        bodies: dict[str, Attr] = {name: apply_everywhere(step, body) for name, body in node.subgraphs()}
        if bodies:
            nodes[i] = node.with_attrs(**bodies)
    return step.apply(graph.with_nodes(nodes))
