"""Where the real models and their data lie, and how they are read."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(os.environ.get("SKIPJACK_TEST_ASSETS", ""))
MODELS, DATA = ROOT / "models", ROOT / "data"
needs_assets = pytest.mark.skipif(
    not os.environ.get("SKIPJACK_TEST_ASSETS"), reason="SKIPJACK_TEST_ASSETS names no directory of models and data"
)


def goldens() -> list[Path]:
    """The files of recorded inputs and outputs of single runs."""
    return [p for p in sorted(MODELS.rglob("*.golden_*.npz")) if "stream" not in p.name] if ROOT.name else []


def model_of(golden: Path) -> Path:
    """The model a golden file belongs to."""
    return golden.parent / (golden.name.split(".golden_")[0] + ".onnx")


def mnist() -> tuple[np.ndarray, np.ndarray]:
    """(images of 28 x 28 bytes, labels) of the test set."""
    images = gzip.decompress((DATA / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((DATA / "mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def cifar10() -> tuple[np.ndarray, np.ndarray]:
    """(normalised images, labels) of 2,000 test images."""
    with np.load(DATA / "cifar10" / "cifar10_test_jpeg_2000.npz") as data:
        blob, offsets, labels = data["jpeg"].tobytes(), data["offsets"], data["labels"]
    files = (blob[a:b] for a, b in itertools.pairwise(offsets))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(f)).convert("RGB")) for f in files])
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scaled = (pixels / 255 - mean) / deviation
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32), labels


def photographs() -> np.ndarray:
    """Parts of three photographs, 24 in all: blue, green and red from 0 to 255 less their means."""
    parts: list[np.ndarray] = []
    for path in sorted((DATA / "images").glob("*.jpg")):
        whole = Image.open(path).convert("RGB").resize((291, 291))
        corners = itertools.islice(itertools.product((0, 32, 64), repeat=2), 8)
        parts += [np.asarray(whole.crop((x, y, x + 227, y + 227))) for x, y in corners]
    centred = np.stack(parts)[..., ::-1] - np.array([104.0, 117.0, 123.0])
    return np.ascontiguousarray(centred.transpose(0, 3, 1, 2), np.float32)


def speech() -> np.ndarray:
    """A minute of speech at 16 kHz, from -1 to 1."""
    with wave.open(str(DATA / "speech" / "test.wav")) as sound:
        return np.frombuffer(sound.readframes(sound.getnframes()), np.int16).astype(np.float32) / 32768
