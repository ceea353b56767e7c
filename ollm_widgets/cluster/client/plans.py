"""Plans of a node as the client that asked for them sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.planning.memory_map import MemoryMap
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan

if TYPE_CHECKING:
    from ollm_widgets.cluster.messages import Offer
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan

# What a plan names where no node is known yet.
NODE_TO_COME = "a node to come"
THIS_MACHINE = "this machine"

_FILES_FIRST = "The node brings the model's files before it loads it."


def on(plan: RuntimePlan, config: RuntimeConfig, node: str, why: str) -> RuntimePlan:
    """Return a node's plan with the client's config, and where it is.

    Its files are the node's, which brings them by itself: none are missing here.
    """
    notes = (_FILES_FIRST,) if plan.needs_files and _FILES_FIRST not in plan.details else ()
    return plan.refine(
        config=config.copy(),
        node=node,
        node_reason=why,
        model_path=None,
        executable=plan.executable or plan.needs_files,
        needs_files=False,
        reason=why if plan.needs_files else plan.reason,
        details=(*plan.details, *notes),
    )


def offered(offer: Offer, config: RuntimeConfig, node: str, why: str) -> RuntimePlan:
    """Return the plan that a host offers."""
    plan = on(offer.plan, config, node, why)
    if offer.runs:
        return plan
    return plan.refine(executable=False, reason=offer.refusal or plan.reason, node_reason="")


def unknown(
    base: RuntimePlan, config: RuntimeConfig, reason: str, *, runs: bool, node: str = NODE_TO_COME
) -> RuntimePlan:
    """Return a plan of which nothing is known but the model, and whether it can be asked for.

    Parameters
    ----------
    base
        How this machine would run it, for what all plans of a model have in common.
    reason
        Why no more is known.
    """
    model = base.resolved_model
    runs = runs and model.is_supported()
    return base.refine(
        config=config.copy(),
        node=node,
        model_path=None,
        executable=runs,
        needs_files=False,
        reason=reason if model.is_supported() else model.resolution_message,
        placement=LayerPlacement(),
        streaming=StreamingPlan(),
        memory=MemoryMap(),
        speed=None,
        details=(),
    )
