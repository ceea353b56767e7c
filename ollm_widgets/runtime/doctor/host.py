"""Memory and cores of the host, and what a container leaves of them."""

from __future__ import annotations

import os
from pathlib import Path

from ollm_widgets.planning.devices import probe_machine
from ollm_widgets.planning.profile.identity import usable_cores
from ollm_widgets.runtime.doctor.facts import HostFacts

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def host_facts() -> HostFacts:
    """Look at memory, swap and cores."""
    import psutil

    ram, swap = psutil.virtual_memory(), psutil.swap_memory()
    machine = probe_machine()
    total_bytes = int(ram.total)
    limited = machine.ram_total_bytes < total_bytes
    return HostFacts(
        ram_total_bytes=total_bytes,
        ram_free_bytes=machine.ram_free_bytes,
        limit_bytes=machine.ram_total_bytes if limited else None,
        swap_total_bytes=int(swap.total),
        swap_used_bytes=int(swap.used),
        cores=os.cpu_count() or 1,
        usable_cores=min(float(usable_cores()), quota_cores() or float("inf")),
    )


def quota_cores(v2: Path = _CGROUP_V2, v1: Path = _CGROUP_V1) -> float | None:
    """Cores that a container's quota comes to, by cgroups(7); None without one."""
    try:
        quota, period = v2.read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (v1 / "cpu.cfs_quota_us").read_text()
            period = (v1 / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return cores if cores > 0 else None
