"""What a runtime on another machine says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.planning.parts import listed
from ollm_widgets.planning.reasons import node_in_words
from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.units import format_memory

if TYPE_CHECKING:
    from ollm_widgets.cluster.far.model import FarModel


def card_of(runtime: FarModel) -> Card:
    """Draw it: what is loaded, on which node and why there, and what it holds."""
    plan, use = runtime.plan, runtime.memory()
    rows = [
        Row("Node", node_in_words(plan)),
        Row("Backend", f"{plan.backend_id}, {plan.dtype} on {listed(plan.devices)}"),
        Row("Layers", plan.placement.summary()),
        Row("KV cache", f"{plan.kv.strategy}: {plan.kv.why}"),
        Row("KV now", runtime.kv_stats().summary()),
        Row("Host memory there", format_memory(use.host_bytes)),
    ]
    if use.accelerator_bytes:
        rows.append(Row("Accelerator memory there", format_memory(use.accelerator_bytes)))
    if runtime.last_completion is not None:
        rows.append(Row("Last answer", f"{runtime.last_completion.tokens_per_s:.1f} tokens/s"))
    rows += [each.row() for each in runtime.truth.shown]
    return Card(
        title=runtime.name,
        badge="closed" if runtime.closed else "busy" if runtime.busy else "loaded",
        tone="neutral" if runtime.closed else "ok",
        rows=tuple(rows),
    )
