"""What one decoded token costs: the formula that predicts it, and that placements are chosen by."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.planning.profile.bandwidth import Bandwidth

# Where they were not measured: what torch takes for a call on a laptop, and a graph for a kernel
# on an H200.
NOMINAL_LAUNCH_S = 4.5e-6
NOMINAL_REPLAY_S = 1.2e-6
# Quantized weights that a CPU expands: 1.2 (mxfp4) to 3.5 (fp8) GB/s of the result on two cores
# that copy 30.
_EXPANDED_PER_COPIED = 1 / 12


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
    awaited_bytes
        Those of them that nothing can send ahead, as the pass itself asks for them: chosen
        experts and cold KV pages. The accelerator waits while they cross.
    unpacked_bytes
        Raw bytes that packed and quantized layers are decoded into.
    disk_bytes, page_cache_bytes
        Read from disk, and read again from the page cache.
    launched
        Calls that Python makes to have a pass computed; 0 where a captured graph is replayed.
    replayed
        Small operations that an accelerator carries out one after the other; 0 on a CPU, where
        each of them is a call.
    on_cores
        The CPU computes, and copies from the page cache with the same cores.
    """

    read_bytes: int = 0
    wire_bytes: int = 0
    awaited_bytes: int = 0
    unpacked_bytes: int = 0
    disk_bytes: int = 0
    page_cache_bytes: int = 0
    launched: int = 0
    replayed: int = 0
    on_cores: bool = False


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Seconds of everything that goes on in a pass at the same time; the longest bounds it."""

    computing: float
    calling: float
    wire: float
    reading: float

    @property
    def total(self) -> float:
        """The pass."""
        return max(self.computing, self.calling, self.wire, self.reading)


def step_seconds(work: StepWork, speeds: Bandwidth) -> float:
    """Seconds of a pass: of computing, the calls for it, the wire and the reader, the slowest.

    It never falls when any field of `work` grows, which is what makes placements comparable.
    A wire without a measured speed costs nothing here; callers that predict refuse it before.
    """
    return seconds_of(work, speeds).total


def seconds_of(work: StepWork, speeds: Bandwidth) -> StepSeconds:
    """Return what each part of a pass takes; see `step_seconds`.

    An accelerator computes while Python calls for what follows, layers cross the wire ahead of
    their use, and files are read ahead of the wire. A CPU calls and computes in turn, and what
    its cores copy out of the page cache, they do not compute meanwhile.
    """
    computing_s = work.read_bytes / speeds.read_bytes_per_s
    computing_s += time_of(work.unpacked_bytes, unpack_rate_of(speeds, on_cores=work.on_cores))
    computing_s += time_of(work.awaited_bytes, speeds.host_to_device_bytes_per_s)
    computing_s += work.replayed * replay_s_of(speeds)
    calling_s = work.launched * launch_s_of(speeds)
    reading_s = time_of(work.disk_bytes, speeds.disk_bytes_per_s)
    cached_s = time_of(work.page_cache_bytes, speeds.page_cache_bytes_per_s)
    if work.on_cores:
        return StepSeconds(computing_s + calling_s + cached_s, 0.0, 0.0, reading_s)
    wire_s = time_of(work.wire_bytes, speeds.host_to_device_bytes_per_s)
    return StepSeconds(computing_s, calling_s, wire_s, reading_s + cached_s)


def time_of(size_bytes: float, bytes_per_s: float | None) -> float:
    """Return the seconds of a transfer; 0 where its speed is not known."""
    return size_bytes / bytes_per_s if bytes_per_s else 0.0


def unpack_rate_of(speeds: Bandwidth, *, on_cores: bool) -> float | None:
    """Return the raw bytes a second that layers are decoded to; None where it is not known."""
    if speeds.unpack_bytes_per_s is None and on_cores and speeds.host_copy_bytes_per_s:
        return speeds.host_copy_bytes_per_s * _EXPANDED_PER_COPIED
    return speeds.unpack_bytes_per_s


def launch_s_of(speeds: Bandwidth) -> float:
    """Return what Python takes to have one small operation done."""
    return speeds.launch_s or NOMINAL_LAUNCH_S


def replay_s_of(speeds: Bandwidth) -> float:
    """Return what a small operation takes on an accelerator, without Python."""
    return speeds.replay_s or NOMINAL_REPLAY_S
