"""``optimized-native``: an unmodified model whose layers live where the plan says."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.backends.base import LoadedModel, LoadProgress, ProgressSink, check_cancelled
from ollm_widgets.backends.memory import as_out_of_memory
from ollm_widgets.backends.processor import load_processor
from ollm_widgets.backends.text import load_tokenizer, warm_up
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.traits import NATIVE_TRAITS, BackendTraits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ollm_widgets.weights.steps.capture import CapturedSteps

# What a first conversation is likely to need, where steps cost what the cache could hold; a longer
# one captures them anew.
_FIRST_STEPS_TOKENS = 1024


class NativeBackend:
    """Models whose decoder layers sit in one list, larger than memory or not."""

    @property
    def traits(self) -> BackendTraits:
        """Causal models, and image-text models that see or read text only; every placement."""
        return NATIVE_TRAITS

    def load(
        self, plan: RuntimePlan, folder: Path, progress: ProgressSink, cancel: threading.Event
    ) -> LoadedModel:
        """Build the model without weights, bring each layer to its tier, apply the passes.

        Raises
        ------
        SpecializationLoadError
            If the model does not match by structure, or its checkpoint does not fit it.
        SpecializationApplicationError
            If a planned pass cannot be applied.
        Cancelled
            Between two reads, soon after `cancel` is set.
        OutOfMemory
            If a tier cannot hold its part after all.
        """
        import torch

        from ollm_widgets.backends.passes import apply_passes, confirmed
        from ollm_widgets.weights.engine import WeightEngine
        from ollm_widgets.weights.model.skeleton import build_skeleton

        check_cancelled(cancel)
        progress(LoadProgress("Build", 0, 0))
        processor = load_processor(folder) if plan.config.multimodal else None
        tokenizer = load_tokenizer(folder) if processor is None else processor.tokenizer
        device = torch.device(plan.device)
        dtype: torch.dtype = getattr(torch, plan.dtype)
        model = build_skeleton(folder, dtype, device, plan.generic_model_kind or "causal-lm")
        engine = WeightEngine(
            model, folder, device=device, placement=plan.placement, streaming=plan.streaming
        )
        progress(LoadProgress("Build", 1, 1))
        try:
            with as_out_of_memory(plan, device):
                engine.load(
                    lambda done, total: progress(LoadProgress("Read weights", done, total)), cancel
                )
                applied = apply_passes(plan, engine)
                check_cancelled(cancel)
                if engine.arranged.resident:
                    progress(LoadProgress("Warm up", 0, 0))
                    _warm_up(plan, model, tokenizer, applied.steps)
                    applied = confirmed(applied)
                    check_cancelled(cancel)
                    progress(LoadProgress("Warm up", 1, 1))
        except BaseException:
            engine.close()
            raise
        return LoadedModel(
            model=model,
            tokenizer=tokenizer,
            device=device,
            processor=processor,
            applied_pass_ids=applied.pass_ids,
            notes=(*engine.notes, *(f"{name}: {why}" for name, why in applied.reasons.items())),
            engine=engine,
            steps=applied.steps,
        )


def _warm_up(
    plan: RuntimePlan,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    steps: CapturedSteps | None,
) -> None:
    tokens = plan.kv.context_tokens
    if steps is None or steps.attention_obstacle():
        tokens = min(tokens, _FIRST_STEPS_TOKENS)
    if steps is None or steps.refuses(1, tokens):
        warm_up(model, tokenizer, model.device)
    else:
        steps.begin(1, tokens)
