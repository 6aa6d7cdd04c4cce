"""YOLOv5s with its decoding head, for 640x640 images and 80 classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.builders.exporting import export, initialise_convs, measure_batch_norms, scatter_norms

CLASSES = 80
STRIDES = (8, 16, 32)
ANCHORS = (
    (10, 13, 16, 30, 33, 23),
    (30, 61, 62, 45, 59, 119),
    (116, 90, 156, 198, 373, 326),
)
IMAGE_SIZE = 640


class ConvSilu(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, size: int = 1, stride: int = 1, pad: int | None = None):
        super().__init__()
        padding = size // 2 if pad is None else pad
        self.conv = nn.Conv2d(channels_in, channels_out, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, channels: int, adds: bool) -> None:
        super().__init__()
        self.cv1 = ConvSilu(channels, channels)
        self.cv2 = ConvSilu(channels, channels, 3)
        self.adds = adds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.adds else y


class C3(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, repeats: int = 1, adds: bool = True) -> None:
        super().__init__()
        hidden = channels_out // 2
        self.cv1 = ConvSilu(channels_in, hidden)
        self.cv2 = ConvSilu(channels_in, hidden)
        self.cv3 = ConvSilu(2 * hidden, channels_out)
        self.m = nn.Sequential(*(Bottleneck(hidden, adds) for _ in range(repeats)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class Sppf(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = ConvSilu(channels, channels // 2)
        self.cv2 = ConvSilu(channels * 2, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        once = self.pool(x)
        twice = self.pool(once)
        return self.cv2(torch.cat((x, once, twice, self.pool(twice)), 1))


class Detect(nn.Module):
    """One 1x1 convolution per scale, then boxes in pixels: [batch, 25200, 5 + classes]."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(width, 3 * (CLASSES + 5), 1) for width in channels)
        for index, (stride, anchors) in enumerate(zip(STRIDES, ANCHORS, strict=True)):
            cells = IMAGE_SIZE // stride
            y, x = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
            grid = torch.stack((x, y), 2).float().sub(0.5).expand(1, 3, cells, cells, 2)
            sizes = torch.tensor(anchors).float().view(1, 3, 1, 1, 2).expand(1, 3, cells, cells, 2)
            self.register_buffer(f"grid{index}", grid.contiguous())
            self.register_buffer(f"anchors{index}", sizes.contiguous())

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        decoded = []
        for index, feature in enumerate(features):
            raw = self.m[index](feature)
            batch, _, rows, columns = raw.shape
            raw = raw.view(batch, 3, CLASSES + 5, rows, columns).permute(0, 1, 3, 4, 2).contiguous()
            xy, wh, confidence = raw.sigmoid().split((2, 2, CLASSES + 1), 4)
            xy = (xy * 2 + getattr(self, f"grid{index}")) * STRIDES[index]
            wh = (wh * 2) ** 2 * getattr(self, f"anchors{index}")
            decoded.append(torch.cat((xy, wh, confidence), 4).view(batch, 3 * rows * columns, CLASSES + 5))
        return torch.cat(decoded, 1)


class YoloV5s(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_p3 = nn.Sequential(
            ConvSilu(3, 32, 6, 2, 2),
            ConvSilu(32, 64, 3, 2),
            C3(64, 64, 1),
            ConvSilu(64, 128, 3, 2),
            C3(128, 128, 2),
        )
        self.to_p4 = nn.Sequential(ConvSilu(128, 256, 3, 2), C3(256, 256, 3))
        self.to_p5 = nn.Sequential(ConvSilu(256, 512, 3, 2), C3(512, 512, 1), Sppf(512))
        self.reduce5 = ConvSilu(512, 256)
        self.up4 = C3(512, 256, 1, adds=False)
        self.reduce4 = ConvSilu(256, 128)
        self.up3 = C3(256, 128, 1, adds=False)
        self.down3 = ConvSilu(128, 128, 3, 2)
        self.out4 = C3(256, 256, 1, adds=False)
        self.down4 = ConvSilu(256, 256, 3, 2)
        self.out5 = C3(512, 512, 1, adds=False)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.detect = Detect((128, 256, 512))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        p3 = self.to_p3(images)
        p4 = self.to_p4(p3)
        lateral5 = self.reduce5(self.to_p5(p4))
        lateral4 = self.reduce4(self.up4(torch.cat((self.upsample(lateral5), p4), 1)))
        small = self.up3(torch.cat((self.upsample(lateral4), p3), 1))
        medium = self.out4(torch.cat((self.down3(small), lateral4), 1))
        large = self.out5(torch.cat((self.down4(medium), lateral5), 1))
        return self.detect(small, medium, large)


def build_yolov5s(path: Path) -> None:
    """images: float [batch, 3, 640, 640] in 0..1; output: float [batch, 25200, 85]."""
    generator = torch.Generator().manual_seed(5)
    model = YoloV5s()
    initialise_convs(model, generator)
    scatter_norms(model, generator)
    measure_batch_norms(model, torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator))
    sample = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    axes = {"images": {0: "batch"}, "output": {0: "batch"}}
    export(model, {"images": sample}, ["output"], axes, path)
