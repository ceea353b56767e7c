"""Machines that are not here, for what is planned and drawn of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollm_widgets import Session
from ollm_widgets.planning import selector
from ollm_widgets.planning.devices import Device, probe_machine
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.session import desk

SPEEDS = Bandwidth(
    read_bytes_per_s=4e11,
    flops_per_s=8e13,
    host_to_device_bytes_per_s=2.5e10,
    disk_bytes_per_s=3e9,
    page_cache_bytes_per_s=2e10,
)


def on_gpus(session: Session, monkeypatch: pytest.MonkeyPatch, *free_bytes: int) -> None:
    """Let the session plan for a machine with GPUs, each with so many bytes free."""
    gpus = tuple(
        Device("cuda", f"cuda:{number}", "Test GPU", free, free, True)
        for number, free in enumerate(free_bytes)
    )
    machine = replace(probe_machine(), accelerators=gpus)
    monkeypatch.setattr(selector, "probe_machine", lambda: machine)
    monkeypatch.setattr(desk, "probe_machine", lambda: machine)
    monkeypatch.setattr(session.manager.loader.selector, "measure", lambda _device: SPEEDS)
