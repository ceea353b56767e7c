"""What one decoded token costs: the formula that predicts it, and that placements are chosen by."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.planning.profile.bandwidth import Bandwidth


@dataclass(frozen=True, slots=True)
class StepWork:
    """What a pass of one token does under a placement. All sizes are in bytes.

    Parameters
    ----------
    read_bytes
        Read from the memory of the device that computes: weights that a token uses, wherever
        they came from, and the KV cache.
    wire_bytes
        From host memory to the accelerator: layers that stream (as they are there, packed or
        raw; of experts the chosen ones that no cache is expected to hold) and cold KV pages; of
        several accelerators those of the fullest wire.
    unpacked_bytes
        Raw bytes that packed layers are decoded into.
    disk_bytes, page_cache_bytes
        Read from disk, and read again from the page cache.
    launched, replayed
        Small operations that Python dispatches, and those of a captured graph.
    """

    read_bytes: int = 0
    wire_bytes: int = 0
    unpacked_bytes: int = 0
    disk_bytes: int = 0
    page_cache_bytes: int = 0
    launched: int = 0
    replayed: int = 0


def step_seconds(work: StepWork, speeds: Bandwidth) -> float:
    """Seconds of a pass: of computing, the wire and the reader, which overlap, the slowest.

    It never falls when any field of `work` grows, which is what makes placements comparable.
    A wire without a measured speed costs nothing here; callers that predict refuse it before.
    """
    computing_s = work.read_bytes / speeds.read_bytes_per_s
    computing_s += _seconds(work.unpacked_bytes, speeds.unpack_bytes_per_s)
    computing_s += work.launched * (speeds.launch_s or 0.0)
    computing_s += work.replayed * (speeds.replay_s or 0.0)
    wire_s = _seconds(work.wire_bytes, speeds.host_to_device_bytes_per_s)
    reading_s = _seconds(work.disk_bytes, speeds.disk_bytes_per_s)
    reading_s += _seconds(work.page_cache_bytes, speeds.page_cache_bytes_per_s)
    return max(computing_s, wire_s, reading_s)


def _seconds(size_bytes: int, bytes_per_s: float | None) -> float:
    return size_bytes / bytes_per_s if bytes_per_s else 0.0
