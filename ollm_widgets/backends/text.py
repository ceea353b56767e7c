"""What both backends need to turn text into a first token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.errors import MalformedModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder; no remote code runs.

    Raises
    ------
    MalformedModelError
        If transformers cannot read its files.
    """
    from ollm_widgets.weights.model.building import building

    with building():
        from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError) as error:
        raise MalformedModelError(
            f"The tokenizer in {folder} cannot be read: {error}",
            hint="Get its files again from where they came.",
        ) from error
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
