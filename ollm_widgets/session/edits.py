"""From what a person types into a field to a value of the config."""

from __future__ import annotations

from typing import get_args

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.config import BackendId, KVCacheLifecycle, KVStrategyId

_CHOICES: dict[str, tuple[str, ...]] = {
    "backend": get_args(BackendId),
    "kv_cache_strategy": get_args(KVStrategyId),
    "kv_cache_lifecycle": get_args(KVCacheLifecycle),
}
_COUNTS = (
    "kv_cache_window_tokens",
    "offload_gpu_layers",
    "offload_cpu_layers",
    "context_tokens",
)
_WITHOUT_A_CHOICE: dict[str, str] = {"kv_cache_lifecycle": "runtime-scoped"}


def parse_edit(field: str, text: str) -> str | int | None:
    """Turn typed text into the field's value; "" means automatic.

    Raises
    ------
    ConfigError
        If the field cannot be edited, or the text is none of its values.
    """
    text = text.strip()
    if field in _CHOICES:
        if text and text not in _CHOICES[field]:
            raise ConfigError(
                field, f"{text!r} is unknown.", hint=f"Choose {', '.join(_CHOICES[field])}."
            )
        return text or _WITHOUT_A_CHOICE.get(field)
    if field in _COUNTS:
        digits = text.replace(",", "").replace("_", "").replace(" ", "")
        if not digits:
            return None
        if not digits.isascii() or not digits.isdigit() or len(digits) > 12:
            raise ConfigError(field, f"{text!r} is no count.", hint="Type a whole number.")
        return int(digits)
    raise ConfigError(field, "cannot be edited.")
