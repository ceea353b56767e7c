"""The text a person types to name a model, split into its parts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ollm_widgets.errors import ModelReferenceError

ReferenceScheme: TypeAlias = Literal["hf", "path"]

_PATH_PREFIXES = ("/", "./", "../", "~")
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_WEIGHT_SUFFIXES = (".gguf", ".safetensors")
_LONGEST_TEXT = 4_096  # the longest path on Linux
_EXAMPLES = (
    "Name a catalog alias (smollm2-135m), a hub repository (org/name) or a folder (./model)."
)


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A parsed model reference.

    Parameters
    ----------
    raw
        The text as typed, without surrounding white space.
    scheme
        ``"hf"`` when the text said ``hf:``, ``"path"`` for every local path, else ``None``.
    identifier
        Alias, repository id or absolute path, without scheme and revision.
    revision
        Branch, tag or commit after the ``@``; never set for a local path.
    local_path
        The expanded, absolute path when the reference names one.
    """

    raw: str
    scheme: ReferenceScheme | None
    identifier: str
    revision: str | None = None
    local_path: Path | None = None

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> ModelReference:
        """Split a reference into its parts.

        Parameters
        ----------
        text
            ``alias``, ``org/name``, ``org/name@revision``, ``hf:org/name``, ``hf://org/name``,
            ``path:folder`` or a path; a `Path` object is always a path.

        Raises
        ------
        ModelReferenceError
            When the text is empty, too long, holds control characters, or misses the part
            before or after its ``@``.
        """
        if isinstance(text, os.PathLike):
            return cls._from_path(os.fspath(text), os.fspath(text))
        raw = text.strip()
        if not raw:
            raise ModelReferenceError("The model reference is empty.", hint=_EXAMPLES)
        if len(raw) > _LONGEST_TEXT:
            raise ModelReferenceError(
                f"The model reference has {len(raw):,} characters; at most {_LONGEST_TEXT:,} "
                "can name a model.",
                hint=_EXAMPLES,
            )
        control = _CONTROL_CHARACTER.search(raw)
        if control:
            raise ModelReferenceError(
                f"The model reference {raw!r} holds the control character {control.group()!r} "
                f"at position {control.start()}.",
                hint="Type it on one line, without control characters.",
            )
        if raw.startswith("path:"):
            return cls._from_path(raw, raw.removeprefix("path:").strip())
        if raw.startswith("hf:"):
            rest = raw.removeprefix("hf:").removeprefix("//").strip()
            return cls._from_identifier(raw, "hf", rest)
        if _looks_like_path(raw):
            return cls._from_path(raw, raw)
        return cls._from_identifier(raw, None, raw)

    @classmethod
    def _from_path(cls, raw: str, text: str) -> ModelReference:
        if not text:
            raise ModelReferenceError(
                f"The model reference {raw!r} names no path.", hint="Write path:folder."
            )
        try:
            path = _absolute(Path(text).expanduser())
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelReferenceError(
                f"The path {text!r} cannot be read: {error}.", hint="Check its spelling."
            ) from error
        return cls(raw, "path", str(path), None, path)

    @classmethod
    def _from_identifier(
        cls, raw: str, scheme: ReferenceScheme | None, text: str
    ) -> ModelReference:
        identifier, at, revision = (part.strip() for part in text.partition("@"))
        if not identifier:
            raise ModelReferenceError(
                f"The model reference {raw!r} names no model.", hint=_EXAMPLES
            )
        if at and not revision:
            raise ModelReferenceError(
                f"The model reference {raw!r} ends in '@' without a revision.",
                hint=f"Write {identifier} or {identifier}@main.",
            )
        return cls(raw, scheme, identifier, revision or None)

    def is_hub_like(self) -> bool:
        """Whether the reference could name a repository on the Hugging Face hub."""
        if self.local_path is not None:
            return False
        return self.scheme == "hf" or ("/" in self.identifier and " " not in self.identifier)

    def materialization_name(self) -> str:
        """Name of the managed folder for this model: one path component, never a way out."""
        name = self.identifier
        if self.revision:
            name = f"{name}--{self.revision}"
        name = re.sub(r"[/:\\]", "--", name)
        return name if name.strip(".") else name.replace(".", "-")

    def __str__(self) -> str:
        if self.local_path is not None:
            return str(self.local_path)
        prefix = "hf:" if self.scheme == "hf" else ""
        suffix = f"@{self.revision}" if self.revision else ""
        return f"{prefix}{self.identifier}{suffix}"


def _absolute(path: Path) -> Path:
    resolved = path.resolve()
    # A file in the hub's cache is a link to a blob whose name says nothing about its format.
    if path.suffix.lower() in _WEIGHT_SUFFIXES and resolved.suffix.lower() != path.suffix.lower():
        return path.parent.resolve() / path.name
    return resolved


def _looks_like_path(text: str) -> bool:
    if text.startswith(_PATH_PREFIXES) or _WINDOWS_DRIVE.match(text):
        return True
    path = Path(text)
    try:
        return path.is_dir() or (path.suffix.lower() in _WEIGHT_SUFFIXES and path.is_file())
    except (OSError, ValueError):
        return False
