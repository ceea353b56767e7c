"""What makes one placement better than another, and the speeds by which that is judged.

A placement is better than another if, in this order,

1. a token takes fewer seconds, by `step_seconds` of its `step_work`;
2. a long prompt passes in fewer chunks;
3. a pass reads fewer bytes from disk, and sends fewer over the wire to an accelerator;
4. fewer layers move;
5. its ring has the number of slots that is preferred.

The KV cache of the planned context comes before layers: what of it is not on the device crosses
the wire in each pass like a layer would, but nothing can send it ahead. And what no pass reads is
of no weight: bytes that are read once, when the model is loaded, are the same for all placements.

What is compared is fixed in advance and never follows from how much room there is: any choice
that fits in some room also fits in more. So more room never predicts a slower token.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import NamedTuple

from ollm_widgets.planning.ids import DeviceKind
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.step import NOMINAL_LAUNCH_S, step_seconds
from ollm_widgets.planning.speed.work import step_work
from ollm_widgets.planning.weights import WeightSizes

# What stands in for what was not measured: a common accelerator on 16 lanes of PCIe 4, two
# channels of DDR5, an NVMe disk. Placements depend on how these compare, hardly on each of them.
_NOMINAL: dict[DeviceKind, Bandwidth] = {
    "cuda": Bandwidth(
        read_bytes_per_s=1e12,
        flops_per_s=1e14,
        host_to_device_bytes_per_s=25e9,
        disk_bytes_per_s=2e9,
        page_cache_bytes_per_s=15e9,
        host_copy_bytes_per_s=10e9,
        launch_s=NOMINAL_LAUNCH_S,
        replay_s=2e-6,
    ),
    "mps": Bandwidth(2e11, 1e13, disk_bytes_per_s=3e9, page_cache_bytes_per_s=10e9),
    "cpu": Bandwidth(
        read_bytes_per_s=4e10,
        flops_per_s=5e11,
        disk_bytes_per_s=2e9,
        page_cache_bytes_per_s=10e9,
        host_copy_bytes_per_s=1e10,
        launch_s=NOMINAL_LAUNCH_S,
    ),
}


class Score(NamedTuple):
    """How good a placement is; the smaller is the better.

    Parameters
    ----------
    seconds
        Of a token.
    disk_bytes, wire_bytes
        Read from files, and sent to the accelerator, for each token.
    streamed
        Layers that move.
    preference
        Place of its number of slots among those that are tried; 0 is preferred.
    """

    seconds: float
    disk_bytes: int
    wire_bytes: int
    streamed: int
    preference: int


def speeds_for(kind: DeviceKind, measured: Bandwidth | None) -> Bandwidth:
    """Return what was measured of a device, and nominal speeds for all that was not."""
    nominal = _NOMINAL[kind]
    if measured is None:
        measured = nominal
    if measured.disk_bytes_per_s and not measured.page_cache_bytes_per_s:
        measured = replace(measured, page_cache_bytes_per_s=measured.disk_bytes_per_s)
    known = replace(
        measured,
        **{
            each.name: getattr(nominal, each.name)
            for each in fields(Bandwidth)
            if getattr(measured, each.name) is None
        },
    )
    return known.with_unpacking() if kind == "cuda" else known


def token_seconds(
    sizes: WeightSizes, run: PlannedRun, speeds: Bandwidth, *, history_bytes: int = 0
) -> float:
    """Seconds of a token where the layers are placed as in `run`."""
    cached = not run.streaming.read_direct
    work = step_work(sizes, run, history_bytes=history_bytes, page_cached=cached)
    return step_seconds(work, speeds)
