"""What a plan takes for granted of memory, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.planning.parts import listed
from ollm_widgets.planning.verdict import verdict_of
from ollm_widgets.runtime.residency.places import added
from ollm_widgets.session.holding import held_text, kernel_name, state_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.residency.manager import RuntimeManager
    from ollm_widgets.runtime.residency.records import Resident


def room_for(manager: RuntimeManager, plan: RuntimePlan) -> tuple[str, ...]:
    """Say what a plan takes for granted: who would make room for it, and who would not."""
    residents = manager.residents()
    if any(resident.runtime.plan is plan for resident in residents):
        return (f"{plan.resolved_model.display_name} is in memory; this is how it runs.",)
    if plan.node:
        return ()  # the cluster makes room there, and has said in the plan where
    leaving = manager.would_leave(plan)
    said = []
    if leaving:
        held = listed([f"{one.id} ({held_text(one.runtime.memory())})" for one in leaving])
        said.append(f"{held} {_is(leaving)} idle and would make room for it.")
    others = manager.others()
    staying = [f"{one.id} ({_why(one)})" for one in residents if one.pinned or one.in_use]
    staying += [kernel_name(other) for other in others]
    if staying:
        gone = [one.held for one in residents]
        gone += [one.held_bytes for other in others for one in other.runtimes]
        better = verdict_of(manager.loader.plan_with(plan.config, added(gone)))
        if better.text != verdict_of(plan).text:
            said.append(f"Without {listed(staying)} it {better.text}.")
    return tuple(said)


def _why(resident: Resident) -> str:
    return "pinned" if resident.pinned else state_of(resident)[1]


def _is(leaving: Sequence[Resident]) -> str:
    return "is" if len(leaving) == 1 else "are"
