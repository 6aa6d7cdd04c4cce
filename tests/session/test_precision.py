"""The precision that a caller asks for, and instruction sets that restrict it."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

import skipjack
from skipjack.core.errors import ConfigError
from skipjack.targets.target import AVX2, AVX512, AVX512_VNNI, Target, host, runnable
from tests.session.models import dense, dense_means


def _items() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


def _kernels(engine: skipjack.Engine) -> set[str]:
    return {c.name for c in engine.compiled.program.plan.choices}


def test_products_are_rounded_only_when_asked_for() -> None:
    x = _items()
    exact = skipjack.compile_model(dense(), batch_size=4).run([x])[0]
    engine = skipjack.compile_model(dense(), batch_size=4, precision="bf16")
    rounded = engine.run([x])[0]
    np.testing.assert_allclose(exact, dense_means(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rounded, exact, atol=2.0**-5)
    assert not np.array_equal(rounded, exact)
    assert rounded.dtype == np.float32
    if host().has("avx512bf16"):
        assert "gemm_bf16" in _kernels(engine) or "amx_linear" in _kernels(engine)


def _attention() -> onnx.ModelProto:
    """Four heads of self-attention over x [b, s, 64]."""
    body = "(float[b, s, 64] x) => (float[b, s, 64] y) { y = Attention<q_num_heads = 4, kv_num_heads = 4>(x, x, x) }"
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> g {body}')


def test_attention_rounds_where_an_instruction_multiplies() -> None:
    x = np.random.default_rng(1).standard_normal((3, 30, 64)).astype(np.float32)
    exact = skipjack.compile_model(_attention(), batch_size=3).run([x])[0]
    engine = skipjack.compile_model(_attention(), batch_size=3, precision="bf16")
    found = engine.run([x])[0]
    np.testing.assert_allclose(found, exact, atol=2.0**-5)
    assert ("attention_bf16" in _kernels(engine)) == host().has("avx512bf16") == (not np.array_equal(found, exact))


def test_unknown_precisions() -> None:
    with pytest.raises(ConfigError, match=r"precision 'bf61': expected one of \['fp32', 'bf16'\]; did you mean 'bf16'"):
        skipjack.compile_model(dense(), precision="bf61")
    with pytest.raises(ConfigError, match="onnxruntime computes as the model says"):
        skipjack.compile_model(dense(), engine="onnxruntime", precision="bf16")


@pytest.mark.parametrize("target", [AVX2, AVX512, AVX512_VNNI], ids=lambda t: t.name)
def test_a_weaker_instruction_set_rounds_without_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    if target.name not in [t.name for t in runnable()]:
        pytest.skip(f"this machine lacks {target.name}")
    x = _items()
    native = skipjack.compile_model(dense(), batch_size=4, precision="bf16").run([x])[0]
    monkeypatch.setenv("SKIPJACK_ISA", target.name)
    assert host().features == target.features
    assert not any(f.startswith(("amx", "avx512bf16", "avx512vbmi")) for f in host().features)
    engine = skipjack.compile_model(dense(), batch_size=4, precision="bf16")
    assert engine.cpu_avx_type == target.name
    assert not any("bf16" in name or "amx" in name for name in _kernels(engine))
    np.testing.assert_allclose(engine.run([x])[0], native, rtol=1e-5, atol=1e-5)
