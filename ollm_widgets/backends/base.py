"""What a backend is: traits for planning, and a way to load a model by a plan."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ollm_widgets.errors import Cancelled

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.planning.traits import BackendTraits
    from ollm_widgets.weights.engine import WeightEngine
    from ollm_widgets.weights.steps.capture import CapturedSteps


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far one stage of a load is.

    Parameters
    ----------
    stage
        Name of the stage, as a person reads it: "Prepare files", "Read weights", "Warm up".
    done_bytes, total_bytes
        Bytes; a total of 0 means that the amount is not known.
    file
        Set where the bytes are those of one file of the stage.
    """

    stage: str
    done_bytes: int
    total_bytes: int
    file: str | None = None


ProgressSink = Callable[[LoadProgress], None]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What a backend hands to a runtime.

    Parameters
    ----------
    model, tokenizer, processor
        As transformers made them.
    device
        Where inputs go.
    applied_pass_ids
        The specialization passes that did apply.
    notes
        What came out otherwise than planned, in sentences.
    engine
        Owns the weights and moves them; None where they simply stay in the model.
    steps
        Runs decode steps faster than the model's own `generate`; None without such.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    processor: Any = None
    applied_pass_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    engine: WeightEngine | None = None
    steps: CapturedSteps | None = None

    def close(self) -> None:
        """Give its memory back; whoever holds the model itself holds no weights then."""
        if self.steps is not None:
            self.steps.close()
        if self.engine is not None:
            self.engine.close()
            return
        from ollm_widgets.weights.model.binding import unbind

        unbind(self.model)


class Backend(Protocol):
    """Loads a model by a plan that names this backend."""

    @property
    def traits(self) -> BackendTraits:
        """What planning needs to know; costs nothing to ask."""
        ...

    def load(
        self,
        plan: RuntimePlan,
        folder: Path,
        progress: ProgressSink,
        cancel: threading.Event,
    ) -> LoadedModel:
        """Load the model in `folder` as `plan` says.

        Raises
        ------
        Cancelled
            Soon after `cancel` is set; nothing stays in memory.
        OutOfMemory
            When a tier is too small after all.
        """
        ...


def check_cancelled(cancel: threading.Event) -> None:
    """Raise `Cancelled` once `cancel` is set."""
    if cancel.is_set():
        raise Cancelled("Loading was cancelled.")
