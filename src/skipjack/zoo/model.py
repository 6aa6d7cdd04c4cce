"""A model of the zoo as an object: where it lies and what belongs to it."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from skipjack.zoo.resolve import Found, resolve


class Model:
    """A model by name: a path, a directory, hf:owner/name[@revision][:file] or a zoo: stub.

    Nothing is fetched before a property is read or `download` is called.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.source = os.fspath(source)

    @cached_property
    def found(self) -> Found:
        """Where the name leads."""
        return resolve(self.source)

    @property
    def path(self) -> str:
        """The directory that holds the model's files."""
        return str(self.found.directory)

    @property
    def onnx_model(self) -> Path:
        """The ONNX file."""
        return self.found.model

    @property
    def deployment_directory_path(self) -> str:
        """The directory the ONNX file lies in, with tokeniser and configuration beside it."""
        return str(self.found.model.parent)

    def download(self, override: bool = False) -> bool:
        """Fetch what is missing (everything again with override); True when the model is there."""
        if override:
            self.__dict__["found"] = resolve(self.source, force=True)
        return self.found.model.is_file()

    def __fspath__(self) -> str:
        return str(self.found.model)

    def __repr__(self) -> str:
        return f"Model({self.source!r})"
