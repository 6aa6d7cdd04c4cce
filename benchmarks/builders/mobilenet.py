"""MobileNetV2 at width 1.0: inverted residuals with depthwise convolutions and ReLU6."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.builders.exporting import export, initialise_convs, measure_batch_norms, scatter_norms

# expansion, channels, repeats, first stride
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def conv_norm_relu6(channels_in: int, channels_out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_norm_relu6(channels_in, hidden, 1))
        layers.append(conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden))
        layers.append(nn.Conv2d(hidden, channels_out, 1, bias=False))
        layers.append(nn.BatchNorm2d(channels_out))
        self.adds = stride == 1 and channels_in == channels_out
        layers[-1].closes_residual = self.adds
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm_relu6(3, 32, 3, 2)]
        channels = 32
        for expansion, channels_out, repeats, stride in STAGES:
            for index in range(repeats):
                layers.append(InvertedResidual(channels, channels_out, stride if index == 0 else 1, expansion))
                channels = channels_out
        layers.append(conv_norm_relu6(channels, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(pooled, 1))


def build_mobilenet_v2(path: Path) -> None:
    """input: float [batch, 3, 224, 224]; logits: float [batch, 1000]."""
    generator = torch.Generator().manual_seed(2)
    model = MobileNetV2()
    initialise_convs(model, generator)
    scatter_norms(model, generator, residual_scale=0.5)
    measure_batch_norms(model, torch.randn(4, 3, 224, 224, generator=generator))
    sample = torch.randn(1, 3, 224, 224, generator=generator)
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
    export(model, {"input": sample}, ["logits"], axes, path)
