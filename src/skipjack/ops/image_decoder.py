"""ImageDecoder: the pixels of an encoded image."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from skipjack.core.dtypes import DType
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.registry import Infer, Op, Ref, register

_FILE_FORMATS = ("BMP", "JPEG", "JPEG2000", "TIFF", "PNG", "WEBP", "PPM")
_CHANNELS = {"RGB": 3, "BGR": 3, "Grayscale": 1}


def _pixel_order(x: Infer | Ref) -> str:
    order = str(x.attr("pixel_format", "RGB"))
    if order not in _CHANNELS:
        x.fail(f"pixel_format among {sorted(_CHANNELS)}", order)
    return order


def _infer(i: Infer) -> list[ValueType]:
    return [TensorType(DType.U8, (i.fresh("height"), i.fresh("width"), _CHANNELS[_pixel_order(i)]))]


def _decode(r: Ref) -> list[np.ndarray]:
    """[height, width, channels]; no pixels when the bytes are not an image of a known file format, or too large."""
    order = _pixel_order(r)
    encoded = np.ascontiguousarray(r.inputs[0], np.uint8).tobytes()
    try:
        with Image.open(io.BytesIO(encoded), formats=_FILE_FORMATS) as image:
            pixels = np.array(image.convert("L" if order == "Grayscale" else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return [np.zeros((0, 0, _CHANNELS[order]), np.uint8)]
    shaped = pixels.reshape(*pixels.shape[:2], _CHANNELS[order])
    return [np.ascontiguousarray(shaped[..., ::-1] if order == "BGR" else shaped)]


register(Op("ImageDecoder", _infer, _decode))
