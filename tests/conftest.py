"""One kernel cache for the whole test session, shared by parallel workers and gone afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

_VARIABLE = "SKIPJACK_CACHE_DIR"


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache directory of the session, unless the environment names one."""
    if _VARIABLE in os.environ:
        yield
        return
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ[_VARIABLE] = str(shared / "kernel-cache")
    yield
    del os.environ[_VARIABLE]
