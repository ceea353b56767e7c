"""Region `In memory`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.protocol.snapshot import Chip, Holding, MemoryView, ResidentItem
from ollm_widgets.render.units import format_memory

if TYPE_CHECKING:
    from ollm_widgets.runtime.residency import Resident
    from ollm_widgets.session.session import Session


def view_memory(session: Session) -> MemoryView:
    """The runtimes in memory, and how full the machine is."""
    import psutil

    host = psutil.virtual_memory()
    items = []
    for resident in session.manager.residents():
        with contextlib.suppress(RuntimeClosedError):  # it may leave while it is looked at
            items.append(_item(resident, session.runtime_id))
    items += [
        ResidentItem(
            id=f"loading:{name}",
            name=name,
            state="loading",
            current=False,
            pinned=False,
            holdings=(),
            text="loading",
        )
        for name in session.manager.loading()
    ]
    used = f"RAM, {format_memory(host.total - host.available)} of {format_memory(host.total)} used"
    return MemoryView(items=tuple(items), chips=(Chip(text=used),))


def _item(resident: Resident, current: str | None) -> ResidentItem:
    use = resident.runtime.memory()
    # Buffers that layers pass through hold weights too; what is drawn adds up to what is said.
    on_gpu_bytes = use.accelerator_weights_bytes + use.accelerator_staging_bytes
    in_ram_bytes = use.host_weights_bytes + use.host_staging_bytes
    holdings = (
        Holding(place="gpu", kind="layers", size_bytes=on_gpu_bytes),
        Holding(place="gpu", kind="kv", size_bytes=use.accelerator_kv_bytes),
        Holding(place="ram", kind="layers", size_bytes=in_ram_bytes),
        Holding(place="ram", kind="kv", size_bytes=use.host_kv_bytes),
        Holding(place="disk", kind="kv", size_bytes=use.disk_kv_bytes),
    )
    where = []
    if use.accelerator_bytes:
        where.append(f"{format_memory(use.accelerator_bytes)} GPU")
    if use.host_bytes:
        where.append(f"{format_memory(use.host_bytes)} RAM")
    if use.disk_kv_bytes:
        where.append(f"{format_memory(use.disk_kv_bytes)} disk")
    return ResidentItem(
        id=resident.id,
        name=resident.name,
        state="busy" if resident.leases else "idle",
        current=resident.id == current,
        pinned=resident.pinned,
        holdings=tuple(one for one in holdings if one.size_bytes),
        text=", ".join(where),
    )
