"""Garbage is searched for again after it was put off, whatever happened."""

from __future__ import annotations

import gc

import pytest

from skipjack.core.collecting import put_off


def _fail_inside() -> None:
    with put_off():
        assert not gc.isenabled()
        raise ValueError("inside")


def test_the_search_comes_back_after_an_error() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"):
        _fail_inside()
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with put_off():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
