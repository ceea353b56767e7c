"""Region `In memory`."""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import TYPE_CHECKING

import msgspec

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.protocol.pieces import Chip, Tone
from ollm_widgets.protocol.shelf import (
    Asker,
    Holding,
    MemoryView,
    OtherKernel,
    PastEvent,
    ResidentItem,
    ResidentState,
)
from ollm_widgets.protocol.views.loading import problem_of
from ollm_widgets.runtime.worker import ITSELF
from ollm_widgets.session.effects import effect_text
from ollm_widgets.session.holding import (
    held_text,
    holder_text,
    level_text,
    node_text,
    state_of,
    waiting_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ollm_widgets.runtime.memory import MemoryUse
    from ollm_widgets.runtime.residency.records import Resident, RuntimeEvent
    from ollm_widgets.runtime.residency.surroundings import MemoryLevel
    from ollm_widgets.session.session import Session

MOST_PAST_EVENTS = 30
NEARLY_FULL = 0.95
_EFFECTS = ("pinned", "unpinned", "demoted", "returned", "unloaded", "evicted", "failed")


def view_memory(session: Session) -> MemoryView:
    """The runtimes in memory and on their way there, how full the machine is, and who else is."""
    manager, keeping = session.manager, session.keeping
    items = []
    residents = manager.residents()
    waiting = {one.name: waiting_text(one, residents) for one in manager.waiting()}
    for resident in residents:
        with contextlib.suppress(RuntimeClosedError):  # it may leave while it is looked at
            items.append(_item(resident, session, waiting.get(resident.name, "")))
    items += [_coming(name, waiting.get(name, "")) for name in dict.fromkeys(manager.loading())]
    history = manager.history()
    return MemoryView(
        items=tuple(items),
        chips=tuple(_chip(level) for level in manager.gauge.levels().values()),
        effect=_effect(history, keeping.said),
        problem=problem_of(keeping.problem) if keeping.problem else None,
        history=tuple(_past(history)),
        others=tuple(
            OtherKernel(
                id=str(one.pid),
                title=one.title,
                text=holder_text(one),
                asked=keeping.was_asked(one),
            )
            for one in manager.others()
        ),
        now_s=time.time(),
    )


def unchanged(now: MemoryView, before: MemoryView) -> bool:
    """Whether a view says nothing new: that time has passed, the page knows by itself."""
    return msgspec.structs.replace(now, now_s=before.now_s) == before


def _item(resident: Resident, session: Session, waits: str) -> ResidentItem:
    runtime = resident.runtime
    use = runtime.memory()
    queue = tuple(
        Asker(caller=_caller(one.caller, session), running=one.running)
        for one in runtime.queue
        if one.caller != ITSELF
    )
    state, word = state_of(resident)
    note = waits if state == "demoted" else ""  # it has been asked back
    if state == "busy" and resident.id in session.keeping.leaving:
        note = "leaves when it is idle"
    return ResidentItem(
        id=resident.id,
        name=resident.id,  # which tells two runtimes of one model apart
        state=state,
        word=word,
        current=resident.id == session.runtime_id,
        pinned=resident.pinned,
        holdings=_holdings(use),
        text=held_text(use),
        node=node_text(resident),
        last_used_s=0 if state == "busy" else int(resident.last_used + session.epoch_s),
        queue=queue,
        can_demote=state == "idle" and runtime.can_demote,
        note=note,
    )


def _caller(caller: str, session: Session) -> str:
    return "this chat" if caller == session.conversation.caller else caller


def _coming(name: str, waits: str) -> ResidentItem:
    """What is on its way into memory, or waits for room there."""
    state: ResidentState = "waiting" if waits else "loading"
    return ResidentItem(
        id=f"loading:{name}",
        name=name,
        state=state,
        word=state,
        current=False,
        pinned=False,
        holdings=(),
        text="",
        note=waits,
    )


def _holdings(use: MemoryUse) -> tuple[Holding, ...]:
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
    return tuple(one for one in holdings if one.size_bytes)


def _past(history: Iterable[RuntimeEvent]) -> Iterable[PastEvent]:
    """The last events that a person wants to know of, newest first."""
    told = ((event, effect_text(event)) for event in reversed(tuple(history)))
    shown = itertools.islice(((event, text) for event, text in told if text), MOST_PAST_EVENTS)
    for event, text in shown:
        tone: Tone = "no" if event.kind == "failed" else "neutral"
        yield PastEvent(at_s=int(event.at), text=text, tone=tone)


def _effect(history: Sequence[RuntimeEvent], said: tuple[float, str] | None) -> str:
    """What the last action did; what is only on its way is no effect yet."""
    done = ((one.at, effect_text(one)) for one in reversed(history) if one.kind in _EFFECTS)
    return max(next(done, (0.0, "")), said or (0.0, ""))[1]


def _chip(level: MemoryLevel) -> Chip:
    return Chip(
        text=level_text(level),
        tone="warn" if level.used_share >= NEARLY_FULL else "neutral",
    )
