"""Keys and values that a token reads, and what of them is not where it is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.kv_presets import CODEC_SHARES, preset_of
from ollm_widgets.planning.memory import kv_bytes
from ollm_widgets.planning.parts import KVPlan
from ollm_widgets.planning.weights import ITEM_BYTES


@dataclass(frozen=True, slots=True)
class HistoryBytes:
    """Keys and values of a history, in bytes.

    Parameters
    ----------
    read
        What attention of one token reads.
    over_wire, from_disk
        Of them what crosses the wire to the accelerator, and what is read from disk, each time.
    """

    read: int = 0
    over_wire: int = 0
    from_disk: int = 0


def history_bytes(
    shape: ModelShape | None,
    dtype: DType,
    tokens: int,
    kv: KVPlan | None,
    *,
    window_tokens: int | None,
    on_accelerator: bool,
) -> HistoryBytes:
    """Return what a token behind `tokens` others reads, and from where.

    Layers that slide read their window, linear ones next to nothing. What is beyond the budget
    of the device is in host memory where the strategy keeps pages there, and else on disk;
    quantized pages count as such on all tiers.

    Parameters
    ----------
    window_tokens
        Tokens that the KV cache keeps, None for all.
    """
    if shape is None:
        return HistoryBytes()
    total = kv_bytes(shape, dtype, tokens, window_tokens)
    if kv is None or kv.device_budget_bytes is None or total <= kv.device_budget_bytes:
        return HistoryBytes(read=total)
    preset = preset_of(kv.strategy)
    if not preset.uses_disk:
        return HistoryBytes(read=total)
    kept = total
    if kv.codec is not None:
        kept = math.ceil(total * 2 / ITEM_BYTES[dtype] * CODEC_SHARES[kv.codec])
    cold = max(kept - kv.device_budget_bytes, 0)
    in_host = 0
    if on_accelerator and "host" in preset.tiers:
        in_host = cold if kv.host_budget_bytes is None else min(cold, kv.host_budget_bytes)
    return HistoryBytes(
        read=total,
        over_wire=cold if on_accelerator else 0,
        from_disk=cold - in_host,
    )
