"""What a loaded runtime says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.kv.observation import said
from ollm_widgets.planning.parts import listed
from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.units import format_memory

if TYPE_CHECKING:
    from ollm_widgets.runtime.loaded import LoadedRuntime


def card_of(runtime: LoadedRuntime) -> Card:
    """Draw a runtime: what is loaded, how, what it holds, and how its plan's figures came true."""
    plan, use = runtime.plan, runtime.memory()
    rows = [
        Row("Backend", f"{plan.backend_id}, {plan.dtype} on {listed(plan.devices)}"),
        Row("Layers", plan.placement.summary()),
        Row("KV cache", f"{plan.kv.strategy}: {plan.kv.why}"),
        Row("KV now", runtime.kv_stats().summary()),
        Row("Host memory", format_memory(use.host_bytes)),
    ]
    if use.accelerator_bytes:
        rows.append(Row("Accelerator memory", format_memory(use.accelerator_bytes)))
    if runtime.last_completion is not None:
        rows.append(Row("Last answer", f"{runtime.last_completion.tokens_per_s:.1f} tokens/s"))
    rows += [each.row() for each in runtime.truth.shown]
    advised = runtime.kv_recommendation()
    if advised is not None:
        rows.append(Row("Recommended", f"{said(advised.then)}. {advised.why}", "warn"))
    return Card(
        title=runtime.name,
        badge="closed" if runtime.closed else "busy" if runtime.busy else "loaded",
        tone="neutral" if runtime.closed else "ok",
        rows=tuple(rows),
    )
