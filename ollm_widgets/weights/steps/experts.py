"""How experts are run in decode steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def decode_experts(model: PreTrainedModel, *, capturing: bool) -> Iterator[None]:
    """Run experts as `generate` does in its decode loop, and as a capture needs them.

    A loop over experts waits for the router on the host; the batched form does not.
    """
    needed = {"grouped_mm", "eager"} if capturing else {"grouped_mm"}
    getter = getattr(model, "get_experts_implementation", None)
    before = getter() if getter is not None and model.device.type != "cpu" else {}
    switch = any(used in needed for used in before.values()) and _switches_experts(model)
    if switch:
        after = {name: "batched_mm" if used in needed else used for name, used in before.items()}
        model.set_experts_implementation(after)
    try:
        yield
    finally:
        if switch:
            model.set_experts_implementation(before)


def _switches_experts(model: PreTrainedModel) -> bool:
    can = getattr(model, "_can_set_experts_implementation", None)
    return bool(can is not None and can())
