"""Memory of large pages, which are cheap to make, to copy from and to compute from."""

from __future__ import annotations

import contextlib
import mmap

# Of a large page on common machines.
PAGE_BYTES = 2 * 1024**2


def map_pages(size_bytes: int) -> mmap.mmap:
    """Map zeroed memory of this process, in large pages where the system has them.

    Raises
    ------
    OSError, ValueError
        If the system refuses.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, size_bytes)
    # Shared memory, which is what Python maps unless it is told, has small pages on most systems.
    mapped = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel that is built without large pages refuses the hint.
    with contextlib.suppress(OSError):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped


def keep_from_children(mapped: mmap.mmap) -> None:
    """Leave memory out of processes that are forked from now on.

    Private memory that is page-locked would be copied to each of them, all of it and at once: a
    shell command in a notebook is a fork.
    """
    if hasattr(mmap, "MADV_DONTFORK"):
        mapped.madvise(mmap.MADV_DONTFORK)


def give_to_children(mapped: mmap.mmap) -> None:
    """Undo `keep_from_children`."""
    if hasattr(mmap, "MADV_DOFORK"):
        mapped.madvise(mmap.MADV_DOFORK)
