"""A lock between processes that can be waited for with a way out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.models.job_control import CancelFlag, raise_if_cancelled

if TYPE_CHECKING:
    import filelock

_POLL_S = 0.2


def acquire(path: Path, cancel: CancelFlag | None, operation: str) -> filelock.BaseFileLock:
    """Take the lock; any thread may release it.

    Raises
    ------
    Cancelled
        When `cancel` was set while waiting.
    """
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, thread_local=False)
    while True:
        raise_if_cancelled(cancel, operation)
        try:
            lock.acquire(timeout=_POLL_S, poll_interval=_POLL_S / 4)
        except filelock.Timeout:
            continue
        return lock
