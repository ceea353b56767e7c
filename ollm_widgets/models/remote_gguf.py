"""A GGUF file on the hub: its header, read through a sparse copy of the file's beginning."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ollm_widgets.errors import UnsupportedModelError
from ollm_widgets.models.facts import Examination
from ollm_widgets.models.gguf_examination import examine_gguf
from ollm_widgets.models.hub_files import HubFiles

# Metadata with a vocabulary of 256,000 tokens takes about 15 MB.
_HEADER_BYTES = 32_000_000


def examine_remote_gguf(files: HubFiles, names: Sequence[str]) -> Examination:
    """Read the header of a repository's only GGUF file.

    Parameters
    ----------
    files
        The repository's files.
    names
        Its GGUF files; several are refused, since nobody said which one.
    """
    place = files.place
    if len(names) > 1:
        shown = ", ".join([*names[:4], "..."] if len(names) > 4 else names)
        return Examination(None, place).refused(
            UnsupportedModelError(
                f"{place} holds {len(names)} GGUF files ({shown}) and no safetensors.",
                hint=f"Get one with `hf download {place} {names[0]}` and load its path.",
            )
        )
    name = names[0]
    with tempfile.TemporaryDirectory(prefix="ollm-gguf-") as folder:
        path = Path(folder) / "header.gguf"
        with path.open("wb") as file:
            file.write(files.read_start(name, _HEADER_BYTES))
            # The header is checked against the file's size; the rest is a hole that takes no room.
            file.truncate(files.size_bytes(name))
        try:
            found = examine_gguf(path)
        except UnsupportedModelError as error:
            found = Examination(None, place).refused(error)
        return _moved(found, str(path), f"{place}/{name}", name)


def _moved(found: Examination, path: str, place: str, name: str) -> Examination:
    """Copy that speaks of the file on the hub, not of the sparse copy."""
    weights = found.weights
    return replace(
        found,
        path=None,
        place=place,
        refusal=None if found.refusal is None else found.refusal.replace(path, place),
        gaps=tuple(gap.replace(path, place) for gap in found.gaps),
        weights=None if weights is None else replace(weights, files=(name,)),
    )
