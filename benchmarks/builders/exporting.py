"""Turns a torch module into an ONNX file and checks that its outputs are sane."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

OPSET = 17
SANE_STD = (1e-2, 1e3)


def export(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    output_names: list[str],
    dynamic_axes: dict[str, dict[int, str]],
    path: Path,
    *,
    keep_batch_norm: bool = False,
) -> None:
    """Writes `module` to `path`; outputs must be finite and neither vanish nor explode.

    The tracing exporter folds batch norm into convolutions unless `keep_batch_norm`.
    """
    module.eval()
    args = tuple(inputs.values())
    with torch.no_grad():
        outputs = module(*args)
    for name, value in zip(output_names, outputs if isinstance(outputs, tuple) else (outputs,), strict=True):
        _check_sane(path.stem, name, value)
    training = torch.onnx.TrainingMode.PRESERVE if keep_batch_norm else torch.onnx.TrainingMode.EVAL
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            args,
            str(path),
            input_names=list(inputs),
            output_names=output_names,
            dynamic_axes=dynamic_axes,
            opset_version=OPSET,
            training=training,
            dynamo=False,
        )
    onnx.checker.check_model(str(path))


def _check_sane(model: str, name: str, value: torch.Tensor) -> None:
    std = value.std().item()
    print(f"  {model}: output {name} {tuple(value.shape)} mean {value.mean():.3g} std {std:.3g}", flush=True)
    if not SANE_STD[0] <= std <= SANE_STD[1]:
        raise SystemExit(f"{model}: output {name} has std {std:.3g}, expected {SANE_STD}; rescale its initial weights")


def scatter_norms(module: nn.Module, generator: torch.Generator, residual_scale: float = 1.0) -> None:
    """Gives norms non-trivial scales and shifts, then scales those marked `closes_residual`."""
    for layer in module.modules():
        if not isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            continue
        layer.weight.data.uniform_(0.7, 1.3, generator=generator)
        layer.bias.data.normal_(0.0, 0.1, generator=generator)
        if getattr(layer, "closes_residual", False):
            layer.weight.data.mul_(residual_scale)


def measure_batch_norms(module: nn.Module, sample: torch.Tensor) -> None:
    """Sets the running statistics to those of `sample`."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
    module.train()
    with torch.no_grad():
        module(sample)
    module.eval()


def initialise_convs(module: nn.Module, generator: torch.Generator) -> None:
    """Scales each convolution so that unit-variance input gives about unit variance after a ReLU."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            layer.weight.data.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.data.normal_(0.0, 0.1, generator=generator)
        elif isinstance(layer, nn.Linear):
            layer.weight.data.normal_(0.0, layer.in_features**-0.5, generator=generator)
            layer.bias.data.normal_(0.0, 0.1, generator=generator)
