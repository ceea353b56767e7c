"""The runtime that a conversation talks to, also after it has left memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.errors import RuntimeClosedError

if TYPE_CHECKING:
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.interface import Runtime


@dataclass(frozen=True, slots=True)
class Partner:
    """A runtime, and what it takes to have it again; the runtime itself is not kept alive.

    Parameters
    ----------
    runtime_id, name
        What the manager and a person call it.
    config, plan
        How it was loaded.
    takes_instructions
        Whether its chat template writes them; see `ChatTraits`.
    """

    runtime_id: str
    name: str
    config: RuntimeConfig
    plan: RuntimePlan
    takes_instructions: bool = True

    @classmethod
    def of(cls, runtime_id: str, runtime: Runtime) -> Partner:
        """Take note of a runtime that is in memory."""
        try:
            takes = runtime.chat_traits.takes_instructions
        except RuntimeClosedError:  # it leaves while it is looked at
            takes = True
        return cls(runtime_id, runtime.name, runtime.config.copy(), runtime.plan, takes)


@dataclass(frozen=True, slots=True)
class Departure:
    """A partner that has left memory, and how, in a sentence; `by_itself`: nobody unloaded it."""

    partner: Partner
    how: str
    by_itself: bool
