"""What both backends need to turn text into a first token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder; no remote code runs."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return tokenizer


def warm_up(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> None:
    """Run one token, so that what is compiled or chosen on first use is behind us."""
    import torch

    start = torch.tensor([[_first_token(tokenizer)]], device=device)
    with torch.inference_mode():
        model(input_ids=start, use_cache=False)


def _first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any id that the vocabulary surely has."""
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(tokenizer, name, None)
        if isinstance(token, int):
            return token
    return 0
