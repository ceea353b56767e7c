"""Tiny image-text models with processors and tokenizers of their own, made on the spot."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from tests.models.architectures import GROUPED, TOWER, Architecture
from tests.weights.streamed_models import save_lively

LANGUAGE = {**GROUPED, "vocab_size": 128, "num_hidden_layers": 3, "max_position_embeddings": 512}
HEADED = {**LANGUAGE, "head_dim": 8}
NEW_TOKENS = 8
# Only the question's own words are in the vocabulary; all that is not is one unknown word.
WORDS = 100
TEMPLATE = (
    "{%% for message in messages %%}{{ message['role'] }} "
    "{%% if message['content'] is string %%}{{ message['content'] }} {%% else %%}"
    "{%% for part in message['content'] %%}"
    "{%% if part['type'] == 'image' %%}%s {%% else %%}{{ part['text'] }} {%% endif %%}"
    "{%% endfor %%}{%% endif %%}{%% endfor %%}"
    "{%% if add_generation_prompt %%}assistant {%% endif %%}"
)


@dataclass(frozen=True, slots=True)
class SeeingModel:
    """How a tiny model that sees is made.

    Parameters
    ----------
    architecture
        Its model.
    placeholder
        What its chat template writes for an image.
    specials
        Its special tokens, from id 100 on.
    preprocessor, processor
        What its ``preprocessor_config.json`` and ``processor_config.json`` say.
    named
        Special tokens that its processor knows by a name.
    """

    architecture: Architecture
    placeholder: str
    specials: tuple[str, ...]
    preprocessor: Mapping[str, Any]
    processor: Mapping[str, Any]
    named: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.architecture.model_type


def _model(model_type: str, kind: str, settings: dict[str, object]) -> Architecture:
    return Architecture(
        model_type,
        settings,
        kind,
        kind="image-text-to-text",
        modalities=("text", "image"),
        layers=LANGUAGE["num_hidden_layers"],
    )


QWEN2_VL = SeeingModel(
    _model(
        "qwen2_vl",
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": {
                **LANGUAGE,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
            },
            "vision_config": {
                "depth": 1,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 4,
                "patch_size": 4,
            },
            "image_token_id": 100,
            "video_token_id": 101,
            "vision_start_token_id": 102,
            "vision_end_token_id": 103,
        },
    ),
    "<|vision_start|><|image_pad|><|vision_end|>",
    ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
    {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 4,
        "size": {"shortest_edge": 64, "longest_edge": 1024},
    },
    {"processor_class": "Qwen2VLProcessor"},
)
IDEFICS3 = SeeingModel(
    _model(
        "idefics3",
        "Idefics3ForConditionalGeneration",
        {
            "text_config": {"model_type": "llama", **LANGUAGE},
            "vision_config": {**TOWER, "image_size": 16, "patch_size": 4},
            "image_token_id": 101,
            "scale_factor": 2,
            "pad_token_id": 0,
        },
    ),
    "<image>",
    (
        *("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"),
        *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
    ),
    {
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 32},
        "max_image_size": {"longest_edge": 16},
        "do_image_splitting": True,
    },
    {"processor_class": "Idefics3Processor", "image_seq_len": 4},
)
LLAVA = SeeingModel(
    _model(
        "llava",
        "LlavaForConditionalGeneration",
        {
            "text_config": {"model_type": "llama", **LANGUAGE},
            "vision_config": {
                **TOWER,
                "model_type": "clip_vision_model",
                "num_hidden_layers": 2,
                "image_size": 16,
                "patch_size": 4,
            },
            "image_token_id": 100,
        },
    ),
    "<image>",
    ("<image>",),
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 16},
        "crop_size": {"height": 16, "width": 16},
    },
    {
        "processor_class": "LlavaProcessor",
        "patch_size": 4,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    },
)
GEMMA3 = SeeingModel(
    _model(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {**HEADED, "sliding_window": 16},
            "vision_config": {**TOWER, "image_size": 28, "patch_size": 14},
            "mm_tokens_per_image": 4,
            "image_token_id": 100,
            "boi_token_id": 101,
            "eoi_token_id": 102,
        },
    ),
    "<start_of_image>",
    ("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
    {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 28, "width": 28}},
    {"processor_class": "Gemma3Processor", "image_seq_length": 4},
    {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    },
)
SEEING = (QWEN2_VL, IDEFICS3, LLAVA, GEMMA3)


def save_seeing(model: SeeingModel, folder: Path, layers: int | None = None) -> Path:
    """Save a checkpoint with all that a processor is made of, as on the hub."""
    _require_image_processor(model)
    architecture = model.architecture
    if layers is not None:
        text = {**architecture.settings["text_config"], "num_hidden_layers": layers}  # type: ignore[dict-item]
        settings = {**architecture.settings, "text_config": text}
        architecture = replace(architecture, settings=settings, layers=layers)
    save_lively(architecture, folder)
    _save_tokenizer(model, folder)
    for name, said in (("preprocessor", model.preprocessor), ("processor", model.processor)):
        (folder / f"{name}_config.json").write_text(json.dumps(dict(said)))
    (folder / "chat_template.jinja").write_text(TEMPLATE % model.placeholder)
    return folder


def _require_image_processor(model: SeeingModel) -> None:
    """Skip a test whose images this release of transformers reads with torchvision only."""
    kind = model.preprocessor["image_processor_type"]
    torchvision = importlib.util.find_spec("torchvision") is not None
    if not torchvision and getattr(getattr(transformers, f"{kind}Pil", None), "is_dummy", False):
        pytest.skip(f"{kind} needs torchvision here")


def _save_tokenizer(model: SeeingModel, folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "</s>": 1, **{f"w{n}": n for n in range(2, WORDS)}}
    words |= {token: WORDS + n for n, token in enumerate(model.specials)}
    words |= {f"w{n}": n for n in range(len(words), 128)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(model.specials))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        extra_special_tokens=dict(model.named),
    )
    fast.save_pretrained(folder)


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Noise of another kind for each seed."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def asking(*parts: Any) -> list[dict[str, Any]]:
    """One message of a user: texts as they are, images as parts."""
    content: list[dict[str, Any]] = [
        {"type": kind, kind: part}
        for part in parts
        for kind in ("text" if isinstance(part, str) else "image",)
    ]
    return [{"role": "user", "content": content}]


def expected(folder: Path, processor: Any, messages: list[dict[str, Any]]) -> torch.Tensor:
    """What transformers answers by itself: greedy ids ``[1, new]``."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return answered(model, processor, messages)


@torch.no_grad()
def answered(model: Any, processor: Any, messages: list[dict[str, Any]]) -> torch.Tensor:
    """What `generate` of a model answers: greedy ids ``[1, new]``."""
    inputs = processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    inputs = inputs.to(model.device)
    ids: torch.Tensor = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return ids[:, inputs["input_ids"].shape[1] :]
