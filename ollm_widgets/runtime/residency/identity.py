"""When two requests are for the same runtime."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan

# Where the files are looked for; once they are found, their folder says it.
_NAMES = ("model_reference", "models_dir")


def asked_keys(plan: RuntimePlan) -> frozenset[Hashable]:
    """Return keys that the same request has again, however much memory is free then.

    A model has the name that was typed, and a folder as soon as it has one, so that what is asked
    for while it is being downloaded meets what is asked for afterwards. On a cluster ``auto`` and
    ``ray`` are the same wish.
    """
    identity = cast("tuple[tuple[str, Hashable], ...]", plan.config.identity())
    wishes = tuple(pair for pair in identity if pair[0] not in _NAMES)
    if plan.node:
        kind = plan.config.device.removeprefix("ray").removeprefix(":") or "auto"
        wishes = (*(pair for pair in wishes if pair[0] != "device"), ("on a node", kind))
    reference = (str(plan.resolved_model.reference), dict(identity)["models_dir"])
    keys: set[Hashable] = {("asked", reference, wishes)}
    if plan.model_path is not None:
        keys.add(("asked", str(plan.model_path), wishes))
    return frozenset(keys)


def planned_key(plan: RuntimePlan) -> Hashable:
    """Return what is equal for plans that run the same weights in the same way.

    An automatic choice equals the same one made by hand. Where a cluster runs a model may change
    from one request to the next, so that there what was asked for decides.
    """
    if plan.node:
        return ("elsewhere", asked_keys(plan))
    config, kv = plan.config, plan.kv
    return (
        "planned",
        str(plan.model_path or plan.resolved_model.reference),
        plan.backend_id,
        plan.devices,
        plan.dtype,
        plan.placement.tiers,
        (kv.strategy, kv.window_tokens, kv.sink_tokens, kv.codec, kv.context_tokens),
        config.kv_cache_lifecycle,
        config.kv_cache_adaptation_mode,
        str(config.kv_cache_memory_budget or ""),
        str(config.cache_dir or ""),
        config.use_cache,
        config.dense_projection_chunk_rows,
        config.multimodal,
        str(config.adapter_dir or ""),
        config.concurrency_group,
    )
