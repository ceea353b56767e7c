"""The files of one model, wherever they are: what an examination needs of them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ollm_widgets.models.config_file import MAX_CONFIG_BYTES, JSONObject, read_json_object
from ollm_widgets.models.tensors import TensorHeader, read_safetensors_header

MAX_TOKENIZER_CONFIG_BYTES = 100_000_000


class ModelFiles(Protocol):
    """Names, JSON files and tensor headers of a model; never its weights."""

    @property
    def place(self) -> str:
        """Where the files are, for messages; ``place/name`` names one."""

    def names(self) -> tuple[str, ...]:
        """Names of the files right at the top, sorted."""

    def has(self, name: str) -> bool:
        """Whether the file is there; `name` may lie in a folder below."""

    def read_json(self, name: str, limit_bytes: int = MAX_CONFIG_BYTES) -> JSONObject:
        """Read a JSON object of at most `limit_bytes`; raises `UnsupportedModelError`."""

    def tensor_headers(self, name: str) -> tuple[TensorHeader, ...]:
        """Read the header of a safetensors file, checked against the file's size."""


class FolderFiles:
    """The files of a model folder on this machine.

    Parameters
    ----------
    folder
        The model's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        """The folder's path."""
        return str(self._folder)

    def names(self) -> tuple[str, ...]:
        """Names of the folder's entries, sorted; links that lead nowhere are left out."""
        return tuple(sorted(path.name for path in self._folder.iterdir() if path.exists()))

    def has(self, name: str) -> bool:
        """Whether the entry exists."""
        return (self._folder / name).exists()

    def read_json(self, name: str, limit_bytes: int = MAX_CONFIG_BYTES) -> JSONObject:
        """Read one of the folder's JSON files."""
        return read_json_object(self._folder / name, limit_bytes)

    def tensor_headers(self, name: str) -> tuple[TensorHeader, ...]:
        """Read the header of one of the folder's safetensors files."""
        return read_safetensors_header(self._folder / name)
