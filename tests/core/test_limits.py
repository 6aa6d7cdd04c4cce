from __future__ import annotations

import pytest

from skipjack.core.errors import ResourceError
from skipjack.core.limits import check_allocation


def test_an_allocation_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_MAX_MEMORY", "1k")
    check_allocation(256, 4, "node 'x'")
    with pytest.raises(
        ResourceError, match="node 'x': expected at most 1024 bytes for one array, got 257 elements of 4"
    ):
        check_allocation(257, 4, "node 'x'")


def test_there_is_a_limit_without_the_knob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKIPJACK_MAX_MEMORY", raising=False)
    with pytest.raises(ResourceError, match="at most"):
        check_allocation(1 << 60, 1, "node 'x'")
