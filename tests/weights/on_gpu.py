"""What tests of the engine on an accelerator share: placements, and transformers' own answers."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.planning.parts import StreamingPlan
from tests.models.architectures import Architecture
from tests.weights.streamed_models import BATCHES, LAYERS, Prompts, greedy, logits, whole

FolderOf = Callable[[Architecture], Path]
GPU = torch.device("cuda", 0)
RING = StreamingPlan(device_slots=2, staging_slots=2)
# From disk to host memory layers are read and packed; from the accelerator they come as they are.
PLACEMENTS: dict[str, tuple[LayerTier, ...]] = {
    "all on disk": ("disk",) * LAYERS,
    "all in host memory": ("host",) * LAYERS,
    "mixed": ("accelerator", "host", "disk", "host", "disk"),
    "one on the accelerator": ("host", "host", "accelerator", "host", "host"),
    "all on the accelerator": ("accelerator",) * LAYERS,
}


def on_gpu(prompt: Prompts) -> Prompts:
    return prompt.to(GPU)


class References:
    """What transformers makes of the prompts on the same device, made once for each model."""

    def __init__(self, folder_of: FolderOf) -> None:
        self._folder_of = folder_of
        self._known: dict[tuple[str, torch.dtype], dict[str, tuple[torch.Tensor, ...]]] = {}

    def of(
        self, architecture: Architecture, dtype: torch.dtype
    ) -> dict[str, tuple[torch.Tensor, ...]]:
        """Ids and logits of each batch."""
        key = architecture.model_type, dtype
        if key not in self._known:
            model = whole(architecture, self._folder_of(architecture), dtype, GPU)
            self._known[key] = {
                name: (greedy(model, on_gpu(prompt)), logits(model, on_gpu(prompt)))
                for name, prompt in BATCHES.items()
            }
        return self._known[key]

    def noise(self, architecture: Architecture, dtype: torch.dtype, batch: str) -> float:
        """How far transformers' own logits stray by rounding; twice that is ours."""
        own, exact = self.of(architecture, dtype), self.of(architecture, torch.float32)
        if dtype == torch.float32:
            return 1e-4 * float(exact[batch][1].abs().max())
        return 2 * float((own[batch][1] - exact[batch][1]).abs().max())


def assert_answers(
    engine: Any, references: References, architecture: Architecture, dtype: torch.dtype, batch: str
) -> None:
    """Prompt logits are within the noise, and so are those of every token when fed the wanted."""
    prompt = on_gpu(BATCHES[batch])
    ids, wanted = references.of(architecture, dtype)[batch]
    noise = references.noise(architecture, dtype, batch)
    held = logits(engine.model, prompt)
    assert (held - wanted).abs().max() <= noise
    got = greedy(engine.model, prompt)
    if torch.equal(got, ids):
        return
    assert dtype != torch.float32
    for row in range(ids.shape[0]):
        assert_tie(engine.model, prompt, got[row], ids[row], row, noise)


def assert_tie(
    model: Any, prompt: Prompts, got: torch.Tensor, wanted: torch.Tensor, row: int, noise: float
) -> None:
    """Where the first tokens differ, two logits are nearer than rounding tells apart."""
    differing = (got != wanted).nonzero().flatten()
    if not len(differing):
        return
    first = int(differing[0])
    mask = torch.ones(1, first, dtype=torch.long, device=GPU)
    mask[:, : prompt.input_ids.shape[1]] = prompt.attention_mask[row]
    with torch.no_grad():
        scores = model(wanted[None, :first], attention_mask=mask).logits[0, -1]
    assert (scores[got[first]] - scores[wanted[first]]).abs() <= noise


def held_bytes(device: torch.device = GPU) -> int:
    """Bytes of tensors on a device; those of models that only the collector finds are gone."""
    gc.collect()
    return torch.cuda.memory_allocated(device)
