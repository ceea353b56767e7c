"""What a failed write or read of a record is called."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from ollm_widgets.errors import KVPageError, OutOfMemory
from ollm_widgets.kv.layouts.records import Extent

_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def read_failure(folder: Path, extent: Extent, reason: str) -> KVPageError:
    """Say which record could not be read back."""
    return KVPageError(
        f"{folder / extent.file}: the {extent.size:,} bytes of a KV page at byte "
        f"{extent.offset:,} could not be read back: {reason}.",
        hint="Something else has changed, cut or removed the file: run the prompt again, and "
        "check the disk if it happens twice.",
    )


def write_failure(folder: Path, error: OSError, needed_bytes: int) -> KVPageError | OutOfMemory:
    """Say that records could not be written: for want of room, or for another reason."""
    if error.errno in _NO_ROOM:
        free_bytes = shutil.disk_usage(folder).free
        return OutOfMemory(
            f"{folder}: {needed_bytes:,} bytes of KV pages do not fit on the disk, "
            f"{free_bytes:,} bytes are free.",
            tier="disk",
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
            hint="Free some room on that disk, or choose a shorter context.",
        )
    return KVPageError(
        f"{folder}: {needed_bytes:,} bytes of KV pages could not be written: "
        f"{error.strerror or error}.",
        hint="Check the disk, and that the folder can be written to.",
    )
