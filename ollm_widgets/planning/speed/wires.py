"""Wires that a plan needs, and those of unknown speed."""

from __future__ import annotations

from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.history import HistoryBytes
from ollm_widgets.planning.speed.work import streamed_bytes
from ollm_widgets.planning.weights import WeightSizes

PAGE_CACHE = "the page cache"
THE_DISK = "the disk"


def wire_title(run: PlannedRun) -> str:
    """Name the wire that layers cross: of several accelerators the fullest."""
    count = len(set(run.placement.devices))
    if count > 1:
        return f"the fullest of the {count} wires to accelerators"
    return "the wire to the accelerator"


def unmeasured_wires(
    sizes: WeightSizes,
    bandwidth: Bandwidth | None,
    run: PlannedRun,
    history: HistoryBytes | None = None,
) -> str:
    """Name the wires that something crosses at an unknown speed; empty if there are none.

    Parameters
    ----------
    bandwidth
        None where nothing was measured.
    history
        Keys and values that cross them too.
    """
    moved, history = streamed_bytes(sizes, run, whole_experts=True), history or HistoryBytes()
    wire = bandwidth.host_to_device_bytes_per_s if bandwidth is not None else None
    disk = bandwidth.disk_bytes_per_s if bandwidth is not None else None
    unknown = []
    if (moved.to_device or history.over_wire) and wire is None:
        unknown.append(wire_title(run))
    cached = bandwidth is not None and reads_page_cache(run, bandwidth)
    if disk is None and ((moved.from_files and not cached) or history.from_disk):
        unknown.append(THE_DISK)
    return " and of ".join(unknown)


def reads_page_cache(run: PlannedRun, bandwidth: Bandwidth) -> bool:
    """Whether layers come from the page cache: it holds them, and its speed is known."""
    return not run.streaming.read_direct and bandwidth.page_cache_bytes_per_s is not None
