"""The eight KV strategies as rows over layout, tiers, codec and window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ollm_widgets.planning.ids import KVCodecId, KVStrategyId

KVLayout: TypeAlias = Literal["contiguous", "chunks", "pages", "segments", "journal", "ring"]
KVTier: TypeAlias = Literal["accelerator", "host", "disk"]
KVCodec: TypeAlias = Literal["full", "quantized-cold"]
KVWindow: TypeAlias = Literal["full", "last-n"]

DEFAULT_WINDOW_TOKENS = 256
# The more exact of the two: nobody asked for less.
DEFAULT_CODEC: KVCodecId = "int8"

# Bytes of a quantized page, scales included, as a share of the same page in 16 bits.
CODEC_SHARES: dict[KVCodecId, float] = {"int8": 0.55, "int4": 0.30}


@dataclass(frozen=True, slots=True)
class KVPreset:
    """One KV strategy.

    Parameters
    ----------
    strategy_id, title
        Its id, and its name for people.
    layout
        How tokens lie in memory and in files.
    tiers
        Where tokens may be, the fastest first.
    codec
        Whether cold tokens are quantized.
    window
        Whether all tokens are kept, or the last N.
    lossless
        Whether greedy output equals that of a cache that keeps everything in full precision.
    help
        One sentence on when to use it.
    """

    strategy_id: KVStrategyId
    title: str
    layout: KVLayout
    tiers: tuple[KVTier, ...]
    codec: KVCodec
    window: KVWindow
    lossless: bool
    help: str

    @property
    def uses_disk(self) -> bool:
        """Whether tokens go to disk, so that the cache can be larger than memory."""
        return "disk" in self.tiers


KV_PRESETS: tuple[KVPreset, ...] = (
    KVPreset(
        "resident",
        "Resident",
        "contiguous",
        ("accelerator",),
        "full",
        "full",
        True,
        "Everything next to the weights: the fastest, while it fits.",
    ),
    KVPreset(
        "chunked",
        "Chunked",
        "chunks",
        ("accelerator", "disk"),
        "full",
        "full",
        True,
        "Old tokens in files of a fixed size, a hot tail in memory.",
    ),
    KVPreset(
        "paged",
        "Paged",
        "pages",
        ("accelerator", "host", "disk"),
        "full",
        "full",
        True,
        "Pages that move between accelerator, host memory and disk as room allows.",
    ),
    KVPreset(
        "streamed-segmented",
        "Streamed segments",
        "segments",
        ("accelerator", "disk"),
        "full",
        "full",
        True,
        "Append-only files that are read ahead layer by layer, a hot tail in memory.",
    ),
    KVPreset(
        "log-structured-journal",
        "Journal",
        "journal",
        ("accelerator", "disk"),
        "full",
        "full",
        True,
        "One append-only journal that is compacted, a hot tail in memory.",
    ),
    KVPreset(
        "sliding-window-ring-buffer",
        "Sliding window",
        "ring",
        ("accelerator", "host"),
        "full",
        "last-n",
        False,
        "Keeps the last N tokens only: memory stays bounded, what came before is forgotten.",
    ),
    KVPreset(
        "quantized-cold-tier",
        "Quantized cold tier",
        "pages",
        ("accelerator", "host", "disk"),
        "quantized-cold",
        "full",
        False,
        "Pages whose cold part is quantized: the longest context for its memory.",
    ),
    KVPreset(
        "tiered-write-back",
        "Tiered write-back",
        "pages",
        ("accelerator", "host", "disk"),
        "full",
        "full",
        True,
        "Pages in memory, written to disk behind the computation.",
    ),
)


def preset_of(strategy_id: KVStrategyId) -> KVPreset:
    """Return the row of a strategy."""
    return next(preset for preset in KV_PRESETS if preset.strategy_id == strategy_id)
