"""ONNX's node cases on the numpy references and on the compiled path, held to the lists in conformance/.

passing.txt names every case that passes; a case that is not in it must fail and match a pattern of failing.txt, which
says why. Both belong to one version of onnx. `python benchmarks/conformance.py --update` rewrites passing.txt.
"""

from __future__ import annotations

import re

import onnx
import pytest

from tests.ops.conformance import harness, lists, runners

pytestmark = pytest.mark.skipif(
    onnx.__version__ != lists.onnx_version(),
    reason=f"the lists are for onnx {lists.onnx_version()}, installed is {onnx.__version__}",
)
RUNNERS = [
    pytest.param(runners.engine, id="engine", marks=pytest.mark.slow),
    pytest.param(runners.symbolic_engine, id="symbolic_engine", marks=pytest.mark.slow),
    pytest.param(runners.typed_reference, id="typed"),
    pytest.param(runners.symbolic_reference, id="symbolic", marks=pytest.mark.slow),
    pytest.param(runners.unknown_rank_reference, id="unknown_rank", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("runner", RUNNERS)
def test_exactly_the_listed_cases_pass(runner: harness.Runner) -> None:
    failures = {f.name: f.reason for f in harness.run_all(runner, harness.cases())}
    passing = lists.passing()
    broken = {name: reason for name, reason in failures.items() if name in passing}
    assert not broken, f"{len(broken)} listed cases fail: {broken}"
    new = {case.name for case in harness.cases()} - set(failures) - passing
    assert not new, f"cases pass that passing.txt does not list: {sorted(new)}"


def test_every_case_that_is_not_listed_has_a_reason() -> None:
    patterns = [re.compile(pattern) for pattern, _ in lists.failing()]
    unlisted = {case.name for case in harness.cases()} - lists.passing()
    unexplained = [name for name in sorted(unlisted) if not any(p.fullmatch(name) for p in patterns)]
    assert not unexplained, f"cases without a reason in failing.txt: {unexplained}"
    idle = [p.pattern for p in patterns if not any(p.fullmatch(name) for name in unlisted)]
    assert not idle, f"patterns in failing.txt that match no failing case: {idle}"


def test_denominators_are_nested() -> None:
    members = harness.denominators()
    assert members["plain23"] < members["plain26"] < members["core26"] < members["core"] < members["base"]
    assert members["in scope"] < members["all"]
