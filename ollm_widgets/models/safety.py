"""What is refused before a file of a model is used: pickle, remote code, links that leave."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ollm_widgets.errors import UnsafeModelError
from ollm_widgets.models.config_file import JSONObject
from ollm_widgets.models.files import MAX_TOKENIZER_CONFIG_BYTES, FolderFiles, ModelFiles

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_ENTRIES = 10_000
_BLOB_HASH = re.compile(r"[0-9a-f]{64}")
_CODE_FILES = ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def check_folder(folder: Path) -> None:
    """Refuse a model folder that could run code or read files outside itself.

    Raises
    ------
    UnsafeModelError
        When a link leaves the folder, the weights are pickle files only, a config asks for
        remote code, or a config is absurdly large.
    MalformedModelError
        When ``config.json`` exists and cannot be parsed.
    """
    check_links(folder)
    files = FolderFiles(folder)
    check_weight_formats(files)
    if files.has("config.json"):
        check_code(files, files.read_json("config.json"))


def check_links(folder: Path) -> None:
    """Refuse links that leave the folder.

    In the hub's cache a snapshot links into the blobs of its own repository, so there the
    repository's cache folder is the border; those blobs may in turn be links into the store
    that the cache's repositories share.
    """
    border = _border(folder)
    for entry in _entries(folder):
        if not entry.is_symlink():
            continue
        target = Path(os.path.realpath(entry.path))
        if not target.is_relative_to(border) and not _is_shared_blob(target, border):
            raise UnsafeModelError(
                f"{entry.path} is a link to {target}, outside of {border}.",
                hint="Replace the link by the file itself if you trust it.",
            )


def pickle_files(files: ModelFiles) -> tuple[str, ...]:
    """Names of the model's pickle files, sorted."""
    return tuple(name for name in files.names() if name.lower().endswith(PICKLE_SUFFIXES))


def check_weight_formats(files: ModelFiles) -> None:
    """Refuse a model whose only weights are pickle files."""
    pickles = pickle_files(files)
    if not pickles:
        return
    safe = any(name.lower().endswith((".safetensors", ".gguf")) for name in files.names())
    if not safe:
        raise UnsafeModelError(
            f"{files.place} holds its weights as pickle only ({', '.join(pickles[:3])}"
            f"{', ...' if len(pickles) > 3 else ''}); reading pickle can run any code.",
            hint="Use a safetensors version of the model, or convert it to safetensors where "
            "you trust its source.",
        )


def check_code(files: ModelFiles, config: JSONObject) -> None:
    """Refuse a model whose configs ask transformers to import code that comes with it."""
    configs = [("config.json", config)]
    for name in _CODE_FILES:
        if files.has(name):
            configs.append((name, files.read_json(name, MAX_TOKENIZER_CONFIG_BYTES)))
    for name, content in configs:
        if content.get("auto_map"):
            raise UnsafeModelError(
                f"{files.place}/{name} asks for code that comes with the model (auto_map); remote "
                "code is never run.",
                hint="Use a version of the model that transformers supports by itself.",
            )


def _border(folder: Path) -> Path:
    resolved = Path(os.path.realpath(folder))
    if resolved.parent.name == "snapshots" and resolved.parent.parent.name.startswith("models--"):
        return resolved.parent.parent
    return resolved


def _is_shared_blob(target: Path, border: Path) -> bool:
    """Whether `target` is ``<hub cache>/blobs/<2 hex>/<hash>``, as huggingface_hub lays it out."""
    if not border.name.startswith("models--") or not _BLOB_HASH.fullmatch(target.name):
        return False
    return target.parent == border.parent / "blobs" / target.name[:2]


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Entries of the folder and of the folders right in it; transformers reads no deeper."""
    count = 0
    folders = [str(folder)]
    for depth in (0, 1):
        below: list[str] = []
        for name in folders:
            with os.scandir(name) as entries:
                for entry in entries:
                    count += 1
                    if count > MAX_ENTRIES:
                        raise UnsafeModelError(
                            f"{folder} holds more than {MAX_ENTRIES:,} files.",
                            hint="Name the folder of one model.",
                        )
                    yield entry
                    if depth == 0 and entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
        folders = below
