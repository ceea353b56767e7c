"""The transformers cache behind a KV strategy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.window import window_cache
from ollm_widgets.planning.kv_presets import KV_PRESETS

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

    from ollm_widgets.planning.config import KVStrategyId

ColdCodec: TypeAlias = Literal["int8", "int4"]

PAGE_TOKENS = 64


def build_cache(
    model: PreTrainedModel,
    strategy: KVStrategyId,
    window_tokens: int | None = None,
    *,
    sink_tokens: int = 0,
    budget: KVBudget | None = None,
    folder: Path | None = None,
    codec: ColdCodec = "int8",
    page_tokens: int = PAGE_TOKENS,
) -> Cache:
    """Make an empty cache for one sequence batch of `model`.

    Parameters
    ----------
    model
        The model that will fill it; its own special layers (sliding, linear attention)
        are kept by every strategy.
    strategy
        ``resident`` keeps every token next to the weights; ``sliding-window-ring-buffer`` the
        last `window_tokens`; the others give a `TieredCache`, which keeps every token and is to
        be closed.
    window_tokens
        Tokens a query may look back on, itself included.
    sink_tokens
        Tokens at the start that a window keeps as well.
    budget
        What a tiered cache may take of memory; without a bound all of it is hot.
    folder
        In which a tiered cache makes a folder for its files; by default in the cache folder of
        this application. What dead processes left there is removed.
    codec
        Of ``quantized-cold-tier``: bits of cold tokens.
    page_tokens
        Tokens that move between tiers together.

    Raises
    ------
    KVStrategyError
        For a strategy that has no cache here, or a model that a window does not fit.
    """
    if strategy == "resident":
        from transformers import DynamicCache

        return DynamicCache(config=model.config)
    if strategy == "sliding-window-ring-buffer" and window_tokens is not None:
        return window_cache(model, window_tokens, sink_tokens)
    preset = next((preset for preset in KV_PRESETS if preset.strategy_id == strategy), None)
    if preset is None or not preset.uses_disk:
        raise KVStrategyError(
            f"No cache can be built here for the KV strategy {strategy!r}.",
            hint="Use resident, or sliding-window-ring-buffer with a number of window tokens.",
        )
    from ollm_widgets import settings
    from ollm_widgets.kv.codecs import codec_named
    from ollm_widgets.kv.tiers.tiered_cache import tiered_cache

    return tiered_cache(
        model,
        preset,
        codec_named("full" if preset.codec == "full" else codec),
        budget or KVBudget(),
        parent=folder or settings.cache_dir() / "kv",
        page_tokens=page_tokens,
    )
