"""Folders that we write to, and environment variables that change what we do."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ollm_widgets import settings
from ollm_widgets.models.hub_faults import host_of, scrub
from ollm_widgets.runtime.doctor.facts import FolderFacts, VariableFacts

# Of others, and read by what we call.
_OTHERS = (
    "CUDA_VISIBLE_DEVICES",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TRANSFORMERS_OFFLINE",
)
_PREFIX = "OLLM_"
_SECRETS = ("TOKEN", "SECRET", "PASSWORD", "KEY")
# A cache of very many files is not added up to the end.
_ADDING_S = 1.0


def folders() -> tuple[FolderFacts, ...]:
    """The hub's cache, our own, that of KV pages, and the folder of managed models."""
    found: list[FolderFacts] = []
    for name, place in (
        ("cache", settings.cache_dir),
        ("models", settings.default_models_dir),
        ("KV pages", _kv_folder),
        ("hub cache", _hub_folder),
    ):
        # What these import may be what is missing, and the report has to say so.
        with suppress(ImportError):
            found.append(folder_facts(name, place(), add_up=name == "cache"))
    return tuple(found)


def _kv_folder() -> Path:
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.kv_choice import kv_folder

    return kv_folder(RuntimeConfig(""))


def _hub_folder() -> Path:
    from ollm_widgets.models.hub_cache import default_hub_cache

    return default_hub_cache()


def folder_facts(name: str, path: Path, *, add_up: bool = False) -> FolderFacts:
    """Look at a folder, or at what it would be made in."""
    exists = path.is_dir()
    place = next((each for each in (path, *path.parents) if each.exists()), None)
    free_bytes: int | None = None
    if place is not None:
        with suppress(OSError):
            free_bytes = shutil.disk_usage(place).free
    return FolderFacts(
        name,
        path,
        exists,
        writable=place is not None and place.is_dir() and os.access(place, os.W_OK | os.X_OK),
        free_bytes=free_bytes,
        size_bytes=_size_bytes(path) if exists and add_up else None,
    )


def variables(environment: Mapping[str, str] | None = None) -> tuple[VariableFacts, ...]:
    """Variables that are set and change what we do; of a secret one only that it is set."""
    environment = os.environ if environment is None else environment
    ours = known_variables()
    names = sorted(name for name in environment if name.startswith(_PREFIX) or name in _OTHERS)
    return tuple(
        VariableFacts(name, _shown(name, environment[name]), name in ours or name in _OTHERS)
        for name in names
        if environment[name].strip()
    )


def known_variables() -> frozenset[str]:
    """The environment variables that this package reads."""
    return frozenset(
        value
        for name, value in vars(settings).items()
        if name.endswith("_VARIABLE") and isinstance(value, str)
    )


def _shown(name: str, value: str) -> str:
    if any(word in name.upper() for word in _SECRETS):
        return "set, not shown"
    if "://" in value:
        return host_of(value)  # an address can carry a name and a password
    return scrub(value)


def _size_bytes(folder: Path) -> int:
    """What the files below a folder take; of links, nothing."""
    end = time.monotonic() + _ADDING_S
    total = 0
    for entry in _files_below(folder):
        try:
            total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
        if time.monotonic() > end:
            break
    return total


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        yield entry
        except OSError:
            continue
