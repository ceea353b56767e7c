"""Tiny models that are really loaded and really answer, and what transformers makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ollm_widgets.cluster.client.wanting import wanted_of
from ollm_widgets.cluster.messages import Wanted
from ollm_widgets.planning.config import RuntimeConfig

# Greedy tokens of a random model; long enough that two models never agree.
PROMPT = "w5 w17 w99 w23 w42"
PROMPT_IDS = [5, 17, 99, 23, 42]


def tiny_llama(folder: Path, seed: int) -> Path:
    """Write a two-layer Llama of its own weights, which never ends an answer by itself."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    words = {"<unk>": 0, "</s>": 1, **{f"w{n}": n for n in range(2, 128)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.save_pretrained(folder)
    return folder


def wanted(folder: Path, copies: int = 0, device: str = "ray:cpu", **more: Any) -> Wanted:
    """Want a model in float32, in which nothing but the weights decides what it says."""
    config = RuntimeConfig(str(folder), device=device, dtype="float32", **more)
    return wanted_of(config, folder.name, {str(folder): copies})


def text_of(folder: Path, ids: list[int]) -> str:
    """Return the text of an answer."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def answer_of(folder: Path, new_tokens: int) -> list[int]:
    """Return the ids that transformers itself goes on with after `PROMPT_IDS`, greedily."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    output = model.generate(
        torch.tensor([PROMPT_IDS]), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
    )
    ids: list[int] = output[0, len(PROMPT_IDS) :].tolist()
    return ids
