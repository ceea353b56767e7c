"""How many threads a host computes with."""

from __future__ import annotations

import os

import psutil

_THREADS = "OMP_NUM_THREADS"


def use_all_cores() -> None:
    """Undo that Ray has an actor that reserves no core compute on one alone.

    A number that somebody set for the whole node stays. Works before torch is imported.
    """
    try:
        told = psutil.Process(os.getppid()).environ()
    except psutil.Error:
        return  # whoever started this process cannot be asked
    if _THREADS not in told:
        os.environ.pop(_THREADS, None)
