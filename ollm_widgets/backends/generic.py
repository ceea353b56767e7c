"""``transformers-generic``: the model as transformers loads it, whole, on one device."""

from __future__ import annotations

import threading
from pathlib import Path

from ollm_widgets.backends.base import LoadedModel, LoadProgress, ProgressSink, check_cancelled
from ollm_widgets.backends.memory import as_out_of_memory
from ollm_widgets.backends.processor import load_processor
from ollm_widgets.backends.progress import counted_weights, tensor_sizes
from ollm_widgets.backends.text import load_tokenizer, warm_up
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.traits import GENERIC_TRAITS, BackendTraits
from ollm_widgets.weights.model.building import building


class GenericBackend:
    """Any causal or image-text model that transformers knows, while it fits on one device."""

    @property
    def traits(self) -> BackendTraits:
        """Causal models, and those that see with their vision part; no offload."""
        return GENERIC_TRAITS

    def load(
        self, plan: RuntimePlan, folder: Path, progress: ProgressSink, cancel: threading.Event
    ) -> LoadedModel:
        """Read the weights into the plan's device and dtype, then run one token.

        Raises
        ------
        Cancelled
            Between two tensors, soon after `cancel` is set.
        OutOfMemory
            If the device cannot hold the weights after all.
        """
        import torch

        check_cancelled(cancel)
        sizes = tensor_sizes(folder)
        progress(LoadProgress("Read weights", 0, sum(sizes.values())))
        processor = load_processor(folder) if plan.config.multimodal else None
        tokenizer = load_tokenizer(folder) if processor is None else processor.tokenizer
        device = torch.device(plan.device)
        with as_out_of_memory(plan, device), counted_weights(sizes, progress, cancel):
            with building(cancel):
                from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

                factory = AutoModelForCausalLM if processor is None else AutoModelForImageTextToText
                model = factory.from_pretrained(
                    folder,
                    dtype=getattr(torch, plan.dtype),
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                )
            check_cancelled(cancel)
            torch.nn.Module.to(model, device)
            progress(LoadProgress("Warm up", 0, 0))
            warm_up(model, tokenizer, device)
        progress(LoadProgress("Warm up", 1, 1))
        return LoadedModel(model, tokenizer, device, processor)
