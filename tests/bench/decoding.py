"""Timing of greedy decoding, and whether the tokens are those of the reference."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import machine

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PROMPT_TOKENS = 64
_CANDIDATES = 64
_RESTARTS = 4

# Takes ids [1, prompt] and a number of new tokens; gives ids [1, prompt + new].
Generate = Callable[["torch.Tensor", int], "torch.Tensor"]
# Which of several times counts: the median, or on a machine that others use too the shortest.
Pick = Callable[[list[float]], float]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds until the first token, for each one after it, of processor time, and the tokens."""

    first_token_s: float
    token_s: float
    processor_s: float
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Reference:
    """Greedy tokens of the reference, and its likeliest candidates with logits at each step."""

    tokens: list[int]
    candidates: list[list[int]]
    logits: list[list[float]]

    def save(self, path: Path) -> None:
        """Keep it for other processes."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Reference | None:
        """Read it, where a process has saved one."""
        return cls(**json.loads(path.read_text())) if path.exists() else None


def prompt(vocab: int, tokens: int = PROMPT_TOKENS) -> torch.Tensor:
    """Ids ``[1, tokens]``, the same ones in every process."""
    import torch

    generator = torch.Generator().manual_seed(7)
    return torch.randint(2, vocab, (1, tokens), generator=generator)


def time_decoding(
    generate: Generate,
    ids: torch.Tensor,
    tokens: int,
    *,
    warm: bool = True,
    rounds: int = 1,
    pick: Pick = statistics.median,
) -> Timing:
    """Time one token and `tokens` tokens; the difference is the steady speed.

    Parameters
    ----------
    warm
        Generate two tokens first, untimed.
    rounds, pick
        How often, and which of the times counts.
    """

    def timed(count: int) -> tuple[float, float, torch.Tensor]:
        machine.synchronize()
        start, start_processor = time.perf_counter(), time.process_time()
        output = generate(ids, count)
        machine.synchronize()
        return time.perf_counter() - start, time.process_time() - start_processor, output

    if warm:
        timed(2)
    firsts, steady, processor = [], [], []
    for _ in range(rounds):
        first_s, first_processor_s, _output = timed(1)
        all_s, all_processor_s, output = timed(tokens)
        firsts.append(first_s)
        steady.append((all_s - first_s) / (tokens - 1))
        processor.append((all_processor_s - first_processor_s) / (tokens - 1))
    new = output[0, ids.shape[1] :].tolist()
    return Timing(pick(firsts), pick(steady), pick(processor), new)


def refer(model: PreTrainedModel, ids: torch.Tensor, tokens: int) -> Reference:
    """Generate with transformers' own loop, and keep what the choice was between."""
    output = model.generate(
        ids.to(model.device),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    top = [step[0].float().topk(_CANDIDATES) for step in output.logits]
    return Reference(
        output.sequences[0, ids.shape[1] :].tolist(),
        [each.indices.tolist() for each in top],
        [each.values.tolist() for each in top],
    )


def compare(
    generate: Generate,
    ids: torch.Tensor,
    so_far: list[int],
    reference: Reference | None,
    *,
    restarts: int = _RESTARTS,
) -> str:
    """Say how many tokens are the reference's, given the reference's tokens before them.

    Random weights give logits that lie close together, so now and then another order of the
    same sums chooses another token. Generation is then taken up behind the reference's token,
    and the gap that the reference saw between the two is told: rounding noise is a few hundredths.

    Parameters
    ----------
    so_far
        Tokens generated already.
    restarts
        How often to go on behind a difference.
    """
    import torch

    if reference is None:
        return "no reference"
    expected = reference.tokens[: len(so_far)]
    got = so_far[: len(expected)]
    seen = equal = 0
    gap = 0.0
    while True:
        differs = False
        for token in got:
            seen += 1
            differs = token != expected[seen - 1]
            if differs:
                gap = max(gap, _gap(reference, seen - 1, token))
                break
            equal += 1
        if not differs or seen == len(expected) or not restarts:
            break
        restarts -= 1
        forced = torch.tensor([expected[:seen]], dtype=ids.dtype)
        longer = torch.cat((ids, forced), dim=1)
        got = generate(longer, len(expected) - seen)[0, longer.shape[1] :].tolist()
    return f"{equal}/{seen}" + (f", gap {gap:.3f}" if equal < seen else "")


def _gap(reference: Reference, step: int, token: int) -> float:
    logits = reference.logits[step]
    candidates = reference.candidates[step]
    other = logits[candidates.index(token)] if token in candidates else float("-inf")
    return logits[0] - other
