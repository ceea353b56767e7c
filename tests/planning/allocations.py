"""What torch really allocates, and models wide enough that it is worth counting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.kinds import NATIVE_KINDS
from ollm_widgets.models.resolved import ResolvedModel
from tests.models.architectures import ARCHITECTURES, Architecture, build

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

DECODERS = tuple(each for each in ARCHITECTURES if each.kind in NATIVE_KINDS)
# Proportions of real models: a feed-forward block nearly three times as wide as the model.
_WIDE: dict[str, object] = {
    "hidden_size": 256,
    "n_embd": 256,
    "intermediate_size": 704,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "n_positions": 2048,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}


def widened(architecture: Architecture) -> Architecture:
    """The architecture with rows of a few hundred elements."""
    settings = _wide(architecture.settings)
    if architecture.model_type == "qwen2_vl":
        text = dict(settings["text_config"], rope_parameters=_ROPE_IN_SECTIONS)
        vision = dict(settings["vision_config"], hidden_size=256)
        settings |= {"text_config": text, "vision_config": vision}
    return replace(architecture, settings=settings)


_ROPE_IN_SECTIONS = {"rope_type": "default", "mrope_section": [8, 12, 12]}


def _wide(settings: dict[str, object]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "text_config" and isinstance(value, dict):
            made[name] = _wide(value)
        else:
            made[name] = _WIDE.get(name, value)
    return made


def built(architecture: Architecture, folder: Path) -> tuple[PreTrainedModel, ResolvedModel]:
    """A model with random weights, and what its files say of it."""
    model = build(architecture).eval()
    model.save_pretrained(folder)
    return model, inspect_materialized_model(str(folder), folder, "local-path")


def prompt_pass(model: PreTrainedModel, tokens: int) -> Callable[[], Any]:
    """A pass of `tokens` random tokens, which makes logits of the last one only."""
    import inspect

    import torch

    options: dict[str, Any] = {"use_cache": True}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = 1
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(3, 60, (1, tokens), generator=generator)

    def run() -> Any:
        with torch.inference_mode():
            return model(input_ids=ids, **options)

    return run


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that torch's allocator has given out at a time during the call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [
        (event.start_ns(), event.nbytes())
        for event in recorded.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    live = most = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        live += change
        most = max(most, live)
    return most


def storage_bytes(tensors: list[torch.Tensor]) -> int:
    """Bytes of the memory that tensors lie in, of which they may use a part."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let one thread compute, as each takes a workspace of its own."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
