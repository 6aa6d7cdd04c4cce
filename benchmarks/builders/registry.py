"""All benchmark models by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.builders.bert import build_bert_base, build_minilm_l6
from benchmarks.builders.decoder import build_decoder_300m
from benchmarks.builders.mobilenet import build_mobilenet_v2
from benchmarks.builders.resnet import build_resnet50
from benchmarks.builders.yolo import build_yolov5s

BUILDERS: dict[str, Callable[[Path], None]] = {
    "bert_base": build_bert_base,
    "minilm_l6": build_minilm_l6,
    "resnet50": build_resnet50,
    "mobilenet_v2": build_mobilenet_v2,
    "yolov5s": build_yolov5s,
    "decoder_300m": build_decoder_300m,
}
