"""Which process did something, and whether it still runs, told apart from a later one.

A process number is used again; together with the time the process started it is not.
"""

from __future__ import annotations

import os
from pathlib import Path

# psutil computes a start from the clock, which may be set while a process runs.
_CLOCK_STEP_S = 2


def this_process() -> str:
    """Name this process as ``number-start``, in digits."""
    return f"{os.getpid()}-{_start_of(os.getpid()) or 0}"


def is_alive(process: str) -> bool:
    """Whether the process runs that `this_process` named; what follows a second dash is ignored."""
    number, _, rest = process.partition("-")
    start, _, _ = rest.partition("-")
    if not (number.isdecimal() and start.isdecimal()):
        return False
    found = _start_of(int(number))
    if found is None:
        return False
    return abs(found - int(start)) <= (0 if _has_proc() else _CLOCK_STEP_S)


def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()


def _start_of(number: int) -> int | None:
    """When a process started: clock ticks since boot, elsewhere seconds; None if it is gone."""
    if not _has_proc():
        return _start_by_psutil(number)
    try:
        text = Path(f"/proc/{number}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name before the last parenthesis may hold anything.
    fields = text.rpartition(")")[2].split()
    # A zombie has let go of its files and memory already.
    return None if fields[0] in "ZX" else int(fields[19])


def _start_by_psutil(number: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(number)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        seconds: float = process.create_time()
        return round(seconds)
    except psutil.Error:
        return None
