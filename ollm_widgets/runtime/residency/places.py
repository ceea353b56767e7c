"""Bytes by place: what a runtime holds, what a plan needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ollm_widgets.runtime.residency.surroundings import RAM

if TYPE_CHECKING:
    from ollm_widgets.planning.memory_map import TierMemory
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.memory import MemoryUse


def held_bytes(plan: RuntimePlan, use: MemoryUse) -> dict[str, int]:
    """Return what a runtime holds of this machine, by place.

    Only the sum over several accelerators is measured; each has its share of the plan.
    """
    if plan.node:
        return {}
    held = {RAM: use.host_bytes}
    shares = {tier.device: tier.needed_bytes for tier in plan.memory.gpus if tier.needed_bytes}
    planned_bytes = sum(shares.values())
    if not planned_bytes:
        shares, planned_bytes = {plan.device: 1}, 1
    if use.accelerator_bytes:
        for device, share in shares.items():
            held[device] = use.accelerator_bytes * share // planned_bytes
    return held


def needed_bytes(plan: RuntimePlan) -> dict[str, int]:
    """Return what has to be free of this machine for a plan, by place.

    With the margin that stays free; nothing for a plan of another machine.
    """
    if plan.node:
        return {}
    return {
        RAM if tier.place == "ram" else tier.device: tier.needed_bytes + _margin_bytes(tier)
        for tier in plan.memory.tiers
        if tier.place != "disk" and tier.needed_bytes
    }


def added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up bytes by place."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def _margin_bytes(tier: TierMemory) -> int:
    # A plan that may not use the margin needs it too; one that does not fit says so itself.
    return tier.margin_bytes if tier.fits else 0
