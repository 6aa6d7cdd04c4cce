"""Where the model lies in a directory: as exporters, deployment folders and zoos arrange their files."""

from __future__ import annotations

from pathlib import Path

from skipjack.core.errors import ModelError

_USUAL = ("model.onnx", "deployment/model.onnx", "onnx/model.onnx")


def find_model(directory: Path) -> Path:
    """The ONNX file of a model directory; ModelError lists what is there when none or several could be meant."""
    for usual in _USUAL:
        if (directory / usual).is_file():
            return directory / usual
    here = sorted(
        p for folder in (directory, directory / "deployment", directory / "onnx") for p in folder.glob("*.onnx")
    )
    if len(here) == 1:
        return here[0]
    if here:
        names = ", ".join(str(p.relative_to(directory)) for p in here[:8])
        raise ModelError(f"{directory}: holds several models ({names}); name the file")
    present = sorted(p.name for p in directory.iterdir())[:8] if directory.is_dir() else []
    raise ModelError(f"{directory}: expected {' or '.join(_USUAL)}, found {', '.join(present) or 'nothing'}")
