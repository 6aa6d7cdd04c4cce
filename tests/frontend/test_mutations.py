"""A small run of the mutation fuzzer: nothing but our errors, and half of the files past the parser."""

import os

import pytest
from benchmarks.mutate import DEFAULT_RUNNER, REFERENCE_RUNNER, STAGES, fuzz, report


@pytest.mark.parametrize("runner", [REFERENCE_RUNNER, DEFAULT_RUNNER], ids=["references", "engine"])
def test_mutated_files_are_run_or_refused(runner: str) -> None:
    tally = fuzz(300, 7, runner, os.environ.get("SKIPJACK_TEST_ASSETS"))
    assert not tally.faults, report(tally)
    assert tally.count == 300
    assert tally.past("parse") * 2 >= tally.count, report(tally)
    assert tally.reached[STAGES[-1]] > 0
