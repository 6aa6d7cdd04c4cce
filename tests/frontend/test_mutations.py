"""A small run of the mutation fuzzer: nothing but our errors, and half of the files past the parser."""

import os

from benchmarks.mutate import DEFAULT_RUNNER, STAGES, fuzz, report


def test_mutated_files_are_run_or_refused() -> None:
    tally = fuzz(300, 7, DEFAULT_RUNNER, os.environ.get("SKIPJACK_TEST_ASSETS"))
    assert not tally.faults, report(tally)
    assert tally.count == 300
    assert tally.past("parse") * 2 >= tally.count, report(tally)
    assert tally.reached[STAGES[-1]] > 0
