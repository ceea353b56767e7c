"""Whole tiny models as transformers loads them, and the same checkpoints in the engine."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.weights.engine import WeightEngine
from ollm_widgets.weights.model.skeleton import build_skeleton
from tests.models.architectures import ARCHITECTURES, Architecture, build
from tests.weights.checkpoints import auto_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU = torch.device("cpu")
# Not a multiple of the slots: every layer meets every way of coming around.
LAYERS = 5
PROMPT_TOKENS = 70
NEW_TOKENS = 5
VOCABULARY = 64


def deeper(architecture: Architecture) -> Architecture:
    """The architecture with enough layers to go round a ring."""
    settings = dict(architecture.settings)
    key = "n_layer" if "n_layer" in settings else "num_hidden_layers"
    nested = settings.get("text_config")
    if isinstance(nested, dict):
        settings["text_config"] = {**nested, key: LAYERS}
    else:
        settings[key] = LAYERS
    return replace(architecture, settings=settings, layers=LAYERS)


DECODERS = tuple(
    deeper(each) for each in ARCHITECTURES if each.kind in ("causal-lm", "image-text-to-text")
)
MIXTURES = tuple(each for each in DECODERS if each.experts[0])


def named(model_type: str) -> Architecture:
    """One of the architectures."""
    return next(each for each in DECODERS if each.model_type == model_type)


def save_lively(architecture: Architecture, folder: Path) -> Path:
    """A bfloat16 checkpoint whose tokens vary and whose answers never end early."""
    model = build(architecture)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *_saved_buffers(model)):
            if tensor.dim() > 1 or tensor.abs().max() == 0:
                values = torch.randn(tensor.shape, generator=generator) * 0.2
                tensor.copy_(values.to(tensor.dtype))
    model.tie_weights()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    return folder


def _saved_buffers(model: PreTrainedModel) -> list[torch.Tensor]:
    names = model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False)).keys()
    return [model.get_buffer(name) for name in sorted(names)]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts of different lengths, padded on the left."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    def to(self, device: torch.device) -> Prompts:
        """The same elsewhere."""
        return Prompts(self.input_ids.to(device), self.attention_mask.to(device))


def prompts(lengths: Sequence[int], seed: int = 1) -> Prompts:
    """Random prompts of these lengths."""
    longest = max(lengths)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY - 4, (len(lengths), longest), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : longest - length] = 0
        ids[row, : longest - length] = 0
    return Prompts(ids, mask)


ALONE = prompts([PROMPT_TOKENS])
PADDED = prompts([PROMPT_TOKENS, 41, 9], seed=2)
BATCHES = {"one": ALONE, "three, padded": PADDED}


def whole(
    architecture: Architecture, folder: Path, dtype: torch.dtype, device: torch.device = CPU
) -> PreTrainedModel:
    """The model as transformers loads it."""
    model: PreTrainedModel = auto_class(architecture.kind).from_pretrained(  # type: ignore[attr-defined]
        folder, dtype=dtype
    )
    torch.nn.Module.to(model, device)
    return model.eval()


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: Prompts, new_tokens: int = NEW_TOKENS) -> torch.Tensor:
    """Greedy ids ``[batch, prompt + new]`` by transformers' own loop."""
    generate: Any = model.generate
    ids: torch.Tensor = generate(
        prompt.input_ids,
        attention_mask=prompt.attention_mask,
        max_new_tokens=new_tokens,
        do_sample=False,
    )
    return ids


@torch.no_grad()
def logits(model: PreTrainedModel, prompt: Prompts) -> torch.Tensor:
    """Logits where there is a token, ``[tokens, vocab]`` in float32."""
    from transformers import DynamicCache

    output = model(
        input_ids=prompt.input_ids,
        attention_mask=prompt.attention_mask,
        past_key_values=DynamicCache(config=model.config),
        use_cache=True,
    )
    held: torch.Tensor = output.logits[prompt.attention_mask.bool()].float()
    return held


@contextmanager
def engine_of(
    architecture: Architecture,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    tiers: Sequence[LayerTier] | None = None,
    streaming: StreamingPlan | None = None,
    device: torch.device = CPU,
    devices: Sequence[str] = (),
) -> Iterator[WeightEngine]:
    """A loaded engine; all layers on disk and two slots unless something else is asked."""
    model = build_skeleton(folder, dtype, device, architecture.kind)
    engine = WeightEngine(
        model,
        folder,
        device=device,
        placement=LayerPlacement(tuple(tiers or ("disk",) * architecture.layers), tuple(devices)),
        streaming=streaming or StreamingPlan(device_slots=2),
    )
    try:
        engine.load(lambda _done, _total: None, threading.Event())
        yield engine
    finally:
        engine.close()


def with_tokenizer(folder: Path, tokenizer: Path, architecture: Architecture) -> Path:
    """Complete a checkpoint so that a runtime can load it."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder)
    if "image" in architecture.modalities:
        # The image processors themselves want Pillow and torchvision.
        settings = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 28}}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def save_streamable(tokenizer: Path, folder: Path, layers: int = 6) -> Path:
    """A small Llama with the tokenizer of another, of enough layers to stream."""
    settings = {**named("llama").settings, "vocab_size": 128, "num_hidden_layers": layers}
    architecture = replace(named("llama"), settings=settings, layers=layers)
    return with_tokenizer(save_lively(architecture, folder), tokenizer, architecture)


def save_large(tokenizer: Path, folder: Path, layers: int) -> Path:
    """A Llama of 12 MiB a layer, whose weights repeat, so that it is made quickly."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        **named("llama").settings,
        "vocab_size": 128,
        "hidden_size": 512,
        "intermediate_size": 3584,
        "head_dim": 64,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_hidden_layers": layers,
        "max_position_embeddings": 4096,
    }
    config = AutoConfig.for_model("llama", **settings)
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2**21, generator=generator).to(torch.bfloat16) * 0.02
    tensors = {}
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        repeats = -(-tensor.numel() // noise.numel())
        flat = noise.roll(number).repeat(repeats)[: tensor.numel()]
        tensors[name] = flat.view(tensor.shape).clone() + int("norm" in name)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config.dtype = "bfloat16"
    config.eos_token_id = None
    config.save_pretrained(folder)
    return with_tokenizer(folder, tokenizer, named("llama"))
