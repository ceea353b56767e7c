"""What a device and its wires give, measured when it is first needed and remembered."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from ollm_widgets.planning.devices import Device
from ollm_widgets.planning.profile.identity import device_key
from ollm_widgets.planning.profile.remembered import profile_file

if TYPE_CHECKING:
    from ollm_widgets.planning.profile.disk import DiskSpeeds

# Decoding a raw layer of 436 MB takes 0.2 ms on an H200, which reads 4.2 TB/s: it reads three
# quarters of the bytes and writes all of them.
_UNPACKED_PER_READ = 0.5


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What one device and its wires give; what is None was not measured, or does not exist.

    Parameters
    ----------
    read_bytes_per_s
        Weights that a matrix times vector product reads from memory, all cores at work.
    flops_per_s
        Float operations of a large matrix product (float32 on a CPU, bfloat16 or float16 on
        an accelerator).
    host_to_device_bytes_per_s, disk_bytes_per_s
        From pinned host memory to the accelerator, and from disk past the page cache.
    page_cache_bytes_per_s
        From the page cache into memory, by as many threads as the engine reads with.
    host_copy_bytes_per_s
        From host memory to host memory.
    unpack_bytes_per_s
        Raw bytes that the accelerator makes of packed layers.
    launch_s
        What Python spends on having the device do one small operation.
    replay_s
        What a small operation takes in a captured graph.
    """

    read_bytes_per_s: float
    flops_per_s: float
    host_to_device_bytes_per_s: float | None = None
    disk_bytes_per_s: float | None = None
    page_cache_bytes_per_s: float | None = None
    host_copy_bytes_per_s: float | None = None
    unpack_bytes_per_s: float | None = None
    launch_s: float | None = None
    replay_s: float | None = None

    def with_disk(self, speeds: DiskSpeeds | None) -> Bandwidth:
        """Return the same beside a disk; what its measurement does not know stays as it is."""
        if speeds is None:
            return self
        return replace(
            self,
            disk_bytes_per_s=speeds.disk_bytes_per_s or self.disk_bytes_per_s,
            page_cache_bytes_per_s=speeds.page_cache_bytes_per_s or self.page_cache_bytes_per_s,
        )

    def with_unpacking(self) -> Bandwidth:
        """The same, a GPU's decoding counted as a share of its read rate where not measured."""
        if self.unpack_bytes_per_s is not None:
            return self
        return replace(self, unpack_bytes_per_s=_UNPACKED_PER_READ * self.read_bytes_per_s)


_NAMES = tuple(field.name for field in fields(Bandwidth))


def bandwidth_of(device: Device) -> Bandwidth | None:
    """Return the bandwidth of `device`, measuring it (under a second) if nobody has yet.

    Disks are measured by `disk_speeds_of`. Decoding of packed layers counts as half of the read
    rate until `profile_machine` has measured it.

    Returns
    -------
    Bandwidth or None
        None when an accelerator has no room to measure in.
    """
    known = known_bandwidth(device)
    if known is None:
        with profile_file().measuring():
            # Another thread or process may have measured while this one waited.
            known = known_bandwidth(device) or measure_device(device)
    return known.with_unpacking() if known is not None and device.kind == "cuda" else known


def known_bandwidth(device: Device) -> Bandwidth | None:
    """Return what is remembered of `device`; None if nothing was measured."""
    stored = profile_file().recall("devices", device_key(device))
    if stored is None or not {"read_bytes_per_s", "flops_per_s"} <= stored.speeds.keys():
        return None
    return Bandwidth(**{name: stored.speeds[name] for name in _NAMES if name in stored.speeds})


def measure_device(
    device: Device, *, in_full: bool = False, unpack_bytes_per_s: float | None = None
) -> Bandwidth | None:
    """Measure `device` now and remember it; None when it has no room to measure in.

    Parameters
    ----------
    in_full
        On a CPU, measure `launch_s` with torch, which this imports.
    unpack_bytes_per_s
        Measured by one who knows the packed format.
    """
    if device.kind == "cpu":
        from ollm_widgets.planning.profile.host import measure_host

        found: Bandwidth | None = measure_host(with_torch=in_full)
    else:
        from ollm_widgets.planning.profile.accelerator import measure_accelerator

        found = measure_accelerator(device)
    if found is None:
        return None
    found = replace(found, unpack_bytes_per_s=unpack_bytes_per_s)
    speeds = {name: value for name, value in asdict(found).items() if value is not None}
    profile_file().remember("devices", device_key(device), speeds)
    return found
