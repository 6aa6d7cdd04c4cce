"""`skipjack run`: arrays in, arrays out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skipjack.cli.demo import FOLDER
from skipjack.cli.run import summarise
from tests.cli.conftest import Invoke


@pytest.fixture
def image(tmp_path: Path) -> Path:
    with np.load(FOLDER / "held_out.npz") as data:
        np.save(tmp_path / "image.npy", (data["images"][:3, None] / 16.0).astype(np.float32))
    return tmp_path / "image.npy"


def test_given_arrays_decide_the_batch_and_outputs_are_written(skipjack: Invoke, image: Path, tmp_path: Path) -> None:
    result = skipjack("run", FOLDER / "digits.onnx", "--input", f"image={image}", "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "probabilities: float32[3, 10]" in result.stdout
    np.testing.assert_allclose(np.load(tmp_path / "out/probabilities.npy").sum(1), 1, atol=1e-5)


def test_random_inputs_repeat_with_their_seed(skipjack: Invoke, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        skipjack("run", FOLDER / "digits.onnx", "--random", 3, "--batch-size", 2, "--output-dir", tmp_path / folder)
    first, second = (np.load(tmp_path / folder / "probabilities.npy") for folder in ("a", "b"))
    assert first.shape == (2, 10)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "image"], "expected NAME=FILE.npy"),
        (["--input", "image={tmp}/gone.npy"], "cannot read an array"),
        (["--input", "imagge={image}"], "did you mean 'image'?"),
        (["--input", "image={image}", "--random", "1"], "either --input or --random"),
    ],
)
def test_mistakes_are_named(
    skipjack: Invoke, image: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    given = [a.format(tmp=tmp_path, image=image) for a in arguments]
    result = skipjack("run", FOLDER / "digits.onnx", *given)
    assert result.exit_code == 1
    assert expected in result.stderr


def test_summaries_of_outputs() -> None:
    assert summarise(np.array([1, 2, 3])) == "int64[3] min 1 mean 2 max 3"
    assert summarise(np.zeros((0, 2), np.float32)) == "float32[0, 2]"
    assert summarise([1, 2]) == "list with 2 items"
