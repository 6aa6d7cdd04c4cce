"""What is known about the CPU."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

import skipjack
from skipjack import cpu
from skipjack.core.errors import ConfigError, HardwareError


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    cpu.cpu_architecture.cache_clear()
    yield
    cpu.cpu_architecture.cache_clear()


def test_facts_are_keys_and_attributes_and_cannot_change() -> None:
    facts = skipjack.cpu_architecture()
    assert facts.isa == facts["isa"]
    assert pickle.loads(pickle.dumps(facts)) == facts
    with pytest.raises(AttributeError, match="cannot be changed"):
        facts.isa = "none"
    with pytest.raises(TypeError):
        facts["isa"] = "none"  # type: ignore[index]
    with pytest.raises(AttributeError, match="did you mean 'vendor'"):
        facts.vendr  # noqa: B018


def test_every_promised_fact_is_there() -> None:
    facts = cpu.cpu_architecture()
    caches = {f"{c}_cache_size" for c in ("L1_data", "L1_instruction", "L2", "L3")}
    flags = ["vnni", "bf16", "dotprod", "i8mm"]
    named = ["architecture", "vendor", "vendor_id", "vendor_model", "isa", "num_sockets", *flags]
    available = {"available_sockets", "available_num_sockets"}
    both = ["cores_per_socket", "threads_per_core", "num_cores", "num_hw_threads", "num_numa"]
    assert set(facts) == {*caches, *named, *available, *both, *(f"available_{name}" for name in both)}


def test_counts_agree_with_each_other() -> None:
    facts = cpu.cpu_architecture()
    assert 1 <= facts.num_available_physical_cores <= facts.num_physical_cores <= facts.num_threads
    assert facts.threads_per_socket == facts.threads_per_core * facts.cores_per_socket
    assert cpu.cpu_details() == (facts.available_cores_per_socket, facts.isa, facts.vnni)


def test_threads_are_counted_by_socket_core_and_node() -> None:
    places = {t: (t // 8, t // 2 % 4) for t in range(16)}
    topology = cpu._Topology(places, {t: t // 8 for t in range(16)})
    names = ("num_sockets", "cores_per_socket", "threads_per_core", "num_cores", "num_hw_threads", "num_numa")
    assert topology.counts(range(16)) == dict(zip(names, (2, 4, 2, 8, 16, 2)))
    assert topology.counts([0, 1, 2]) == dict(zip(names, (1, 2, 2, 2, 3, 1)))


def test_another_architecture_is_reported_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NM_ARCH", "sve")
    assert cpu.cpu_sve_compatible()
    assert cpu.cpu_neon_compatible()
    assert not cpu.cpu_avx2_compatible()
    assert not skipjack.cpu_avx512_compatible()
    assert "NM_ARCH" in capsys.readouterr().err


def test_an_architecture_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NM_ARCH", "avx-512")
    with pytest.raises(ConfigError, match=r"NM_ARCH='avx-512'.*did you mean 'avx512'"):
        cpu.cpu_architecture()


def test_a_machine_without_vectors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "host_features", frozenset)
    monkeypatch.setattr(cpu, "_machine", lambda: "x86_64")
    with pytest.raises(HardwareError, match="Unable to determine instruction set"):
        cpu.cpu_architecture()


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx2", "fma"}, "TRUE (emulated)"),
        ({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"}, "TRUE"),
    ],
)
def test_the_report_says_what_int8_models_get(
    features: set[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset(features))
    cpu.print_hardware_capability()
    text = capsys.readouterr().out
    assert f"INT8 (quantized) model performance supported: {expected}." in text
    assert "CPU detected with" in text
    assert cpu.cpu_quantization_compatible()
    assert cpu.cpu_vnni_compatible() == (expected == "TRUE")


def test_without_the_linux_files_there_is_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "sys", type("Elsewhere", (), {"platform": "freebsd", "stderr": None}))
    facts = cpu.cpu_architecture()
    assert facts.num_sockets == facts.num_numa == 1
    assert facts.vendor_model
