"""GGUF to safetensors, once for each file's content: reading GGUF takes ten times as long."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ollm_widgets.errors import (
    MalformedModelError,
    OutOfMemory,
    UnsupportedModelError,
)
from ollm_widgets.models.completeness import find_gaps
from ollm_widgets.models.digests import content_digest, known_digest
from ollm_widgets.models.gguf_header import GGUFHeader, read_gguf_header
from ollm_widgets.models.job_control import CancelFlag, Progress, raise_if_cancelled, report
from ollm_widgets.render.units import format_bytes

_DIGEST_MEMORY = "digests.json"
_LOCK_POLL_S = 0.2
# Room for the config, the tokenizer and a filesystem's own overhead.
_MARGIN_BYTES = 64_000_000


def converted_folder(
    gguf: Path,
    cache_dir: Path,
    gaps_of: Callable[[Path], tuple[str, ...]] = find_gaps,
) -> Path | None:
    """Find the finished conversion of a GGUF file without reading the file.

    Parameters
    ----------
    gguf
        The ``.gguf`` file.
    cache_dir
        This package's cache folder.
    gaps_of
        What says whether a folder is complete.

    Returns
    -------
    Path or None
        The complete folder, or ``None`` when the file was not converted in its present state.
    """
    root = _conversions(cache_dir)
    digest = known_digest(gguf, root / _DIGEST_MEMORY)
    if digest is None:
        return None
    folder = _folder_of(gguf, digest, root)
    return folder if folder.is_dir() and not gaps_of(folder) else None


def gguf_to_safetensors(
    gguf: Path,
    cache_dir: Path,
    progress: Progress | None = None,
    cancel: CancelFlag | None = None,
) -> Path:
    """Convert a GGUF file to a folder that transformers loads, or find it converted.

    Weights are expanded to bfloat16. The result is written to a hidden folder beside its place
    and renamed when complete, under a lock, so a crash or a second process leaves no half.

    Parameters
    ----------
    gguf
        The ``.gguf`` file.
    cache_dir
        This package's cache folder.
    progress
        Called with the stages ``hash``, ``tokenizer``, ``read``, ``write``, ``check`` and bytes.
    cancel
        Looked at between steps.

    Returns
    -------
    Path
        Folder with config, bfloat16 safetensors, tokenizer and chat template.

    Raises
    ------
    MalformedModelError
        When the file is damaged, or what was written is incomplete.
    UnsupportedModelError
        When transformers cannot convert its architecture.
    OutOfMemory
        When the disk has no room for the result.
    Cancelled
        When `cancel` was set.
    """
    header = read_gguf_header(gguf)
    root = _conversions(cache_dir)
    digest = content_digest(gguf, root / _DIGEST_MEMORY, progress, cancel)
    folder = _folder_of(gguf, digest, root)
    if folder.is_dir() and not find_gaps(folder):
        return folder
    with _exclusive(folder, cancel):
        if folder.is_dir() and not find_gaps(folder):
            return folder
        _remove_leftovers(folder)
        total_bytes = 2 * sum(tensor.elements for tensor in header.tensors)
        _require_room(root, total_bytes)
        partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
        try:
            _write(gguf, partial, total_bytes, progress, cancel)
            _check(gguf, header, partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        report(progress, "Check files", total_bytes, total_bytes)
    return folder


def _conversions(cache_dir: Path) -> Path:
    return cache_dir / "converted"


def _folder_of(gguf: Path, digest: str, root: Path) -> Path:
    return root / f"{gguf.stem[:80]}-{digest[:16]}-bfloat16"


@contextmanager
def _exclusive(folder: Path, cancel: CancelFlag | None) -> Iterator[None]:
    import filelock

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    while True:
        raise_if_cancelled(cancel, f"Waiting for the conversion of {folder.name}")
        try:
            lock.acquire(timeout=_LOCK_POLL_S)
            break
        except filelock.Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


def _remove_leftovers(folder: Path) -> None:
    # Only reached under the lock: whoever wrote these is gone.
    for leftover in folder.parent.glob(f".{folder.name}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)


def _require_room(root: Path, total_bytes: int) -> None:
    needed = total_bytes + _MARGIN_BYTES
    free = shutil.disk_usage(root).free
    if free < needed:
        raise OutOfMemory(
            f"The converted model takes {format_bytes(needed)} and {root} has "
            f"{format_bytes(free)} free.",
            tier="disk",
            needed_bytes=needed,
            free_bytes=free,
            hint="Free some disk space, or set OLLM_CACHE_DIR to a larger disk.",
        )


def _write(
    gguf: Path,
    partial: Path,
    total_bytes: int,
    progress: Progress | None,
    cancel: CancelFlag | None,
) -> None:
    operation = f"Converting {gguf.name}"
    raise_if_cancelled(cancel, operation)
    report(progress, "Convert GGUF", 0, total_bytes)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True
        )
        raise_if_cancelled(cancel, operation)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            local_files_only=True,
        )
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError, AttributeError) as error:
        raise UnsupportedModelError(
            f"transformers cannot convert {gguf}: {error}",
            hint="Use a safetensors version of the model.",
        ) from error
    report(progress, "Convert GGUF", total_bytes, total_bytes)
    raise_if_cancelled(cancel, operation)
    report(progress, "Write safetensors", 0, total_bytes)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    report(progress, "Write safetensors", total_bytes, total_bytes)
    raise_if_cancelled(cancel, operation)


def _check(gguf: Path, header: GGUFHeader, partial: Path) -> None:
    gaps = list(find_gaps(partial))
    template = partial / "chat_template.jinja"
    if header.text("tokenizer.chat_template") is not None and not template.is_file():
        gaps.append("The chat template is missing.")
    if gaps:
        raise MalformedModelError(
            f"The conversion of {gguf} is incomplete: {' '.join(gaps)}",
            hint="Use a safetensors version of the model.",
        )
