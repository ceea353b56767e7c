"""What was predicted of a runtime beside what came true; remembered for plans that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.planning.speed.alike import shape_of
from ollm_widgets.planning.speed.asking import predict_for
from ollm_widgets.planning.speed.correcting import (
    LEAST_NEW_TOKENS,
    calculated,
    correction_words,
)
from ollm_widgets.planning.speed.observed import Observation, ObservationStore
from ollm_widgets.runtime.predicted_and_measured import (
    FIRST_TOKEN,
    LOAD,
    SECONDS_PER_TOKEN,
    PredictedAndMeasured,
    TruthReport,
)

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.planning.speed.predicted import LoadStage
    from ollm_widgets.runtime.memory import MemoryUse, PeakMemory

_PEAK = "GPU memory at most"


@dataclass(frozen=True, slots=True)
class MeasuredAnswer:
    """The pace of one answer that was alone on its runtime, and ran as planned.

    Parameters
    ----------
    prompt_tokens, history_tokens
        Tokens of the prompt that were computed, and those before them that were there already.
    new_tokens
        Tokens written.
    first_token_s
        From the request's turn to its first token; 0 where it holds time that is not computing.
    seconds_per_token
        For each token after the first; 0 where there was one only.
    """

    prompt_tokens: int
    history_tokens: int
    new_tokens: int
    first_token_s: float
    seconds_per_token: float


class RuntimeTruth:
    """Follows a runtime: its load, then its answers, on the thread that each of them runs on.

    Rows and notes are replaced, never changed, so that any thread may read them.

    Parameters
    ----------
    store
        Where observations outlive the runtime; None remembers nothing.
    peak
        The accelerators' memory since the load began; None without one.
    """

    def __init__(
        self, store: ObservationStore | None = None, peak: PeakMemory | None = None
    ) -> None:
        self._store = store
        self._peak = peak
        self._of_load: tuple[PredictedAndMeasured, ...] = ()
        self._of_memory: tuple[PredictedAndMeasured, ...] = ()
        self._of_answer: tuple[PredictedAndMeasured, ...] = ()
        self._pending: list[Observation] = []
        self._notes: tuple[str, ...] = ()

    def loaded(self, plan: RuntimePlan, stages: Sequence[LoadStage], use: MemoryUse) -> None:
        """Take in a load: the seconds of its stages, and what it holds."""
        self._of_load = _of_load(plan, stages)
        weights = _of_weights(plan, use)
        self._of_memory = (*weights, *self._peak_row(plan))
        planned_bytes = sum(row.predicted for row in weights)
        measured_bytes = sum(row.measured for row in weights)
        self._pending.append(Observation("memory", planned_bytes, measured_bytes))
        if self._of_load and plan.speed is not None:
            total = self._of_load[0]
            calculated_s = total.predicted / plan.speed.correction.load
            self._pending.append(Observation("load", calculated_s, total.measured))

    def answered(self, plan: RuntimePlan, answer: MeasuredAnswer) -> None:
        """Take in an answer."""
        predicted = predict_for(plan, answer.prompt_tokens, answer.history_tokens)
        if predicted is None:
            return
        before = calculated(predicted)
        rows = []
        token_s, first_s = answer.seconds_per_token, answer.first_token_s
        if token_s > 0:
            seconds = predicted.seconds_per_token
            rows.append(PredictedAndMeasured(SECONDS_PER_TOKEN, seconds, token_s, "s"))
        if answer.new_tokens >= LEAST_NEW_TOKENS:
            self._pending.append(Observation("token", before.seconds_per_token, token_s))
        if first_s > 0:
            seconds = predicted.time_to_first_token_s
            plural = "" if answer.prompt_tokens == 1 else "s"
            remark = f"{answer.prompt_tokens:,} prompt token{plural}"
            rows.append(PredictedAndMeasured(FIRST_TOKEN, seconds, first_s, "s", remark))
            self._pending.append(Observation("first-token", before.time_to_first_token_s, first_s))
        self._of_answer = tuple(rows)
        weights = [row for row in self._of_memory if row.what != _PEAK]
        self._of_memory = (*weights, *self._peak_row(plan))

    def remember(self, plan: RuntimePlan) -> None:
        """Write down what is new of a plan: under a millisecond, when nobody waits for it."""
        pending, self._pending = self._pending, []
        if self._store is None or not pending:
            return
        note = self._store.record(shape_of(plan), pending)
        if note and note not in self._notes:
            self._notes = (*self._notes, note)

    def report(self, model: str, plan: RuntimePlan) -> TruthReport:
        """Put together what there is so far."""
        said = correction_words(plan.speed.correction) if plan.speed is not None else ""
        rows = (*self._of_answer, *self._of_load, *self._of_memory)
        return TruthReport(model, rows, tuple(filter(None, (said, *self._notes))))

    def _peak_row(self, plan: RuntimePlan) -> tuple[PredictedAndMeasured, ...]:
        measured = None if self._peak is None else self._peak.measured_bytes()
        planned = sum(tier.needed_bytes for tier in plan.memory.gpus)
        if not measured or not planned:
            return ()
        remark = f"{plan.kv.context_tokens:,} tokens planned for"
        return (PredictedAndMeasured(_PEAK, planned, measured, "B", remark),)


def _of_load(plan: RuntimePlan, stages: Sequence[LoadStage]) -> tuple[PredictedAndMeasured, ...]:
    """Compare the stages that were predicted, their sum first."""
    measured = {each.stage: each.seconds for each in stages}
    predicted = plan.speed.load if plan.speed is not None else ()
    both = [each for each in predicted if each.seconds > 0 and measured.get(each.stage, 0.0) > 0]
    if not both:
        return ()
    total_s = sum(each.seconds for each in both)
    measured_s = sum(measured[each.stage] for each in both)
    return (
        PredictedAndMeasured(LOAD, total_s, measured_s, "s"),
        *(
            PredictedAndMeasured(each.stage, each.seconds, measured[each.stage], "s", part=True)
            for each in both
        ),
    )


def _of_weights(plan: RuntimePlan, use: MemoryUse) -> tuple[PredictedAndMeasured, ...]:
    """Compare weights and the buffers that they stream through, in each kind of memory."""
    on_gpus = use.accelerator_weights_bytes + use.accelerator_staging_bytes
    in_ram = use.host_weights_bytes + use.host_staging_bytes
    ram = [tier for tier in plan.memory.tiers if tier.place == "ram"]
    rows = []
    for what, tiers, measured in (
        ("GPU memory for weights", plan.memory.gpus, on_gpus),
        ("RAM for weights", ram, in_ram),
    ):
        planned = sum(
            tier.layers_bytes + tier.embeddings_bytes + tier.staging_bytes for tier in tiers
        )
        if planned and measured:
            rows.append(PredictedAndMeasured(what, planned, measured, "B"))
    return tuple(rows)
