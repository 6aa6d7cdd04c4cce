"""Targets: what this machine runs, and the knob that takes less."""

from __future__ import annotations

import pytest

from skipjack.core import knobs
from skipjack.core.errors import HardwareError
from skipjack.targets import target as module
from skipjack.targets.target import AMX, AVX2, AVX512, KNOWN, NEON, NEON_I8MM, host, host_features, runnable
from skipjack.targets.tiles import tiles_permitted


def test_the_knob_accepts_every_known_target() -> None:
    assert tuple(t.name for t in KNOWN) == knobs.ISAS


def test_the_host_is_the_best_runnable_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKIPJACK_ISA", raising=False)
    assert host().name == runnable()[-1].name
    assert host().features <= host_features() | NEON.features
    for t in runnable():
        monkeypatch.setenv("SKIPJACK_ISA", t.name)
        assert (host().name, host().features, host().vector_bytes) == (t.name, t.features, t.vector_bytes)


def test_weaker_targets_have_no_features_of_stronger_ones() -> None:
    assert AVX2.features < AVX512.features
    assert not any(f.startswith(("avx512", "amx")) for f in AVX2.features)
    assert [AVX2.lanes(4), AVX512.lanes(4), NEON.lanes(4), AVX512.lanes(1)] == [8, 16, 4, 64]
    assert AVX2.vl == 8
    assert AVX2.feature_string.startswith("+avx,+avx2,")


def test_a_cpu_without_a_known_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "host_features", lambda: frozenset(["sse2"]))
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    module._host.cache_clear()
    monkeypatch.delenv("SKIPJACK_ISA", raising=False)
    with pytest.raises(HardwareError, match="neither AVX2 with FMA nor NEON"):
        host()
    monkeypatch.setenv("SKIPJACK_ISA", "avx2")
    with pytest.raises(HardwareError, match="this CPU runs none of the known sets"):
        host()
    module._host.cache_clear()


def test_arm_machines_run_neon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.platform, "machine", lambda: "arm64")
    assert [t.name for t in runnable()] == ["neon"]
    monkeypatch.setattr(module, "host_features", lambda: NEON_I8MM.features)
    assert [t.name for t in runnable()] == ["neon", "neon-dotprod", "neon-i8mm"]


@pytest.mark.parametrize("permitted", [True, False])
def test_tiles_need_the_permission_of_the_system(monkeypatch: pytest.MonkeyPatch, permitted: bool) -> None:
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module, "host_features", lambda: AMX.features)
    monkeypatch.setattr(module, "tiles_permitted", lambda: permitted)
    assert [t.name for t in runnable()] == ["avx2", "avx512", "avx512vnni", *["amx"] * permitted]


def test_the_permission_is_refused_where_there_are_no_tiles() -> None:
    if "amx-tile" not in host_features():
        assert tiles_permitted() is False
