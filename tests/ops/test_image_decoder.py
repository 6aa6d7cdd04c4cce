"""ImageDecoder on bytes that are no image, and on its attribute."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import skipjack.ops.all  # noqa: F401
from skipjack.core.errors import ModelError
from skipjack.ir.graph import Node, Origin
from skipjack.ops.execute import run_node


def _decoded(encoded: bytes, pixel_format: str = "RGB") -> np.ndarray:
    node = Node("ImageDecoder", ("x",), ("y",), {"pixel_format": pixel_format}, origin=Origin("n", "ImageDecoder"))
    return run_node(node, [np.frombuffer(encoded, np.uint8)])[0]


def _encoded(kind: str) -> bytes:
    pixels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(4, 5, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def test_channels_are_last_and_in_the_order_asked_for() -> None:
    rgb = _decoded(_encoded("PNG"))
    assert rgb.shape == (4, 5, 3)
    np.testing.assert_array_equal(_decoded(_encoded("PNG"), "BGR"), rgb[..., ::-1])
    assert _decoded(_encoded("PNG"), "Grayscale").shape == (4, 5, 1)


@pytest.mark.parametrize("encoded", [b"", b"no image", _encoded("PNG")[:40], _encoded("JPEG")[:200], _encoded("GIF")])
def test_what_is_no_image_gives_no_pixels(encoded: bytes) -> None:
    assert _decoded(encoded).shape == (0, 0, 3)


def test_an_unknown_pixel_order_is_refused() -> None:
    with pytest.raises(ModelError, match="pixel_format among"):
        _decoded(_encoded("PNG"), "CMYK")
