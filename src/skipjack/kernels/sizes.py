"""SizeVector needs no kernel: its integers are known when sizes are bound."""

from __future__ import annotations

from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.launch import Launch, Lowering, Site, Work, lowering


def _accepts(site: Site) -> str:
    return ""


def _lower(work: Work) -> list[Launch]:
    return []


lowering(Lowering("sizes", SKIPJACK, "SizeVector", _accepts, _lower))
