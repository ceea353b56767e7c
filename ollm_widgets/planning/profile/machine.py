"""All that was measured of this machine, and measuring it anew on request."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ollm_widgets.models.job_control import CancelFlag, Progress, raise_if_cancelled, report
from ollm_widgets.planning.devices import Device, Machine, probe_machine
from ollm_widgets.planning.profile.bandwidth import Bandwidth, known_bandwidth, measure_device
from ollm_widgets.planning.profile.disk import DiskSpeeds, largest_file, measure_disk
from ollm_widgets.planning.profile.identity import device_key, host_key
from ollm_widgets.planning.profile.remembered import profile_file
from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.tabular import Tabular
from ollm_widgets.render.units import format_bytes, format_seconds
from ollm_widgets.settings import cache_dir

_TEMPORARY_BYTES = 128 << 20
_OPERATION = "Measuring this machine"

# Wires of a device, in the order in which a token meets them, with their words.
_WIRES = (
    ("read_bytes_per_s", "reads its memory"),
    ("flops_per_s", "multiplies matrices"),
    ("host_to_device_bytes_per_s", "receives from host memory"),
    ("host_copy_bytes_per_s", "host memory to host memory"),
    ("unpack_bytes_per_s", "unpacks layers"),
    ("launch_s", "one small operation from Python"),
    ("replay_s", "one small operation of a captured step"),
)


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What one device gives, by its torch name, and when that was measured, in s since 1970."""

    name: str
    title: str
    bandwidth: Bandwidth
    measured_at: float


@dataclass(frozen=True, slots=True)
class DiskProfile:
    """What one disk gives, by the name of its mount, and when that was measured."""

    name: str
    speeds: DiskSpeeds
    measured_at: float


@dataclass(frozen=True, slots=True)
class MachineProfile(Tabular):
    """The measured wires of this machine; what was not measured is not in it."""

    devices: tuple[DeviceProfile, ...] = ()
    disks: tuple[DiskProfile, ...] = ()

    def bandwidth(self, device: str) -> Bandwidth | None:
        """Return that of a device by its name, ``cuda:0``."""
        found = (each.bandwidth for each in self.devices if each.name == device)
        return next(found, None)

    def table(self) -> Table:
        """One row a wire: its speed, and when it was measured."""
        rows = [*self._device_rows(), *self._disk_rows()]
        return Table(
            title="Measured speeds",
            columns=(
                Column("Wire", numbers=False),
                Column("Speed"),
                Column("Measured"),
            ),
            rows=tuple(rows),
            notes=()
            if rows
            else ("Nothing yet: a plan measures what it needs, %ollm doctor --measure all.",),
        )

    def _device_rows(self) -> Iterator[TableRow]:
        for each in self.devices:
            for name, words in _WIRES:
                value = getattr(each.bandwidth, name)
                if value is not None:
                    yield TableRow(
                        (
                            f"{each.title}: {words}",
                            _in_words(name, value),
                            _when(each.measured_at),
                        )
                    )

    def _disk_rows(self) -> Iterator[TableRow]:
        for disk in self.disks:
            when = _when(disk.measured_at)
            for value, words in (
                (disk.speeds.disk_bytes_per_s, "reads past the page cache"),
                (disk.speeds.page_cache_bytes_per_s, "reads what is in the page cache"),
            ):
                if value is not None:
                    yield TableRow((f"{disk.name}: {words}", f"{format_bytes(value)}/s", when))


def remembered_profile(machine: Machine | None = None) -> MachineProfile:
    """Return what is remembered of this machine as it is now; measures nothing."""
    stored = profile_file()
    machine = machine or probe_machine()
    devices = []
    for device in (machine.cpu, *machine.accelerators):
        bandwidth = known_bandwidth(device)
        entry = stored.recall("devices", device_key(device))
        if bandwidth is not None and entry is not None:
            devices.append(DeviceProfile(device.name, device.title, bandwidth, entry.measured_at))
    disks = []
    for key, entry in sorted(stored.recall_all("disks").items()):
        mount, found, host = key.partition(" (device ")
        if found and host.endswith(f"), {host_key()}"):
            speeds = DiskSpeeds(
                entry.speeds.get("disk_bytes_per_s"), entry.speeds.get("page_cache_bytes_per_s")
            )
            disks.append(DiskProfile(mount, speeds, entry.measured_at))
    return MachineProfile(tuple(devices), tuple(disks))


def profile_machine(
    folder: Path | None = None,
    progress: Progress | None = None,
    cancel: CancelFlag | None = None,
    *,
    unpack: Callable[[Device], float | None] | None = None,
    machine: Machine | None = None,
) -> MachineProfile:
    """Measure every device and the disk, in place of what was remembered: a few seconds.

    Parameters
    ----------
    folder
        A model's folder, whose files are read; where there are none of 32 MiB, and by default,
        128 MiB are written to the cache folder for it and deleted again.
    progress
        Called as ``progress(stage, done, total)`` with counts of stages.
    cancel
        Looked at between stages.
    unpack
        Measures the raw bytes a second that a device makes of packed layers; None where it
        cannot.
    machine
        What there is; looked at now when it is not given.

    Raises
    ------
    Cancelled
        When `cancel` was set; stages that were done are remembered.
    """
    machine = machine or probe_machine()
    devices = (machine.cpu, *machine.accelerators)
    total = len(devices) + 1
    with profile_file().measuring():
        for done, device in enumerate(devices):
            raise_if_cancelled(cancel, _OPERATION)
            report(progress, f"Measure {device.title}", done, total)
            rate = unpack(device) if unpack is not None else None
            measure_device(device, in_full=True, unpack_bytes_per_s=rate)
        raise_if_cancelled(cancel, _OPERATION)
        report(progress, "Measure the disk", len(devices), total)
        with _file_to_read(folder) as path:
            if path is not None:
                measure_disk(path)
    report(progress, "Measured", total, total)
    return remembered_profile(machine)


@contextmanager
def _file_to_read(folder: Path | None) -> Iterator[Path | None]:
    """The model's largest file, or a temporary one; None where neither can be."""
    found = largest_file(folder) if folder is not None else None
    if found is not None:
        yield found
        return
    with ExitStack() as held:
        try:
            path = _written_file(held)
        except OSError:
            path = None
        yield path


def _written_file(held: ExitStack) -> Path:
    import numpy as np

    parent = cache_dir()
    parent.mkdir(parents=True, exist_ok=True)
    folder = held.enter_context(tempfile.TemporaryDirectory(prefix="measuring-", dir=parent))
    path = Path(folder) / "random"
    with path.open("wb") as file:
        # Random, for disks and file systems that store zeros without storing them.
        file.write(np.random.default_rng().bytes(_TEMPORARY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return path


def _in_words(name: str, value: float) -> str:
    if name.endswith("_bytes_per_s"):
        return f"{format_bytes(value)}/s"
    if name == "flops_per_s":
        return f"{value / 1e12:,.0f} TFLOP/s" if value >= 1e13 else f"{value / 1e9:,.0f} GFLOP/s"
    return f"{value * 1e6:.1f} µs" if value < 1e-4 else format_seconds(value)


def _when(seconds: float) -> str:
    """A moment in the clock of whoever looks."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else "unknown"
    except (OverflowError, OSError, ValueError):
        return "unknown"
