"""From what a person types into a field to a value of the config."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.config import (
    BackendId,
    DTypeChoice,
    KVCacheLifecycle,
    KVCodecId,
    KVStrategyId,
    OffloadPolicy,
    RuntimeConfig,
    SelectorProfile,
)

_CHOICES: dict[str, tuple[str, ...]] = {
    "backend": get_args(BackendId),
    "dtype": get_args(DTypeChoice),
    "kv_cache_strategy": get_args(KVStrategyId),
    "kv_cache_codec": get_args(KVCodecId),
    "kv_cache_lifecycle": get_args(KVCacheLifecycle),
    "strategy_selector_profile": get_args(SelectorProfile),
    "offload_cpu_policy": get_args(OffloadPolicy),
}
_COUNTS = (
    "kv_cache_window_tokens",
    "kv_cache_sink_tokens",
    "offload_gpu_layers",
    "offload_cpu_layers",
    "context_tokens",
    "dense_projection_chunk_rows",
)
# The config checks what they say, and names what it accepts.
_TEXTS = ("device", "gpu_memory_budget", "cpu_memory_budget", "kv_cache_memory_budget")
_SWITCHES: dict[str, bool] = {"on": True, "off": False}

Value = str | int | bool | None

_DEFAULTS: dict[str, Value] = {
    field.name: field.default
    for field in fields(RuntimeConfig)
    if isinstance(field.default, str | int | None)
}


def parse_edit(field: str, text: str) -> Value:
    """Turn typed text into the field's value; "" means automatic.

    Raises
    ------
    ConfigError
        If the field cannot be edited, or the text is none of its values.
    """
    text = text.strip()
    if field in _COUNTS:
        digits = text.replace(",", "").replace("_", "").replace(" ", "")
        if not digits:
            return _DEFAULTS[field]
        if not digits.isascii() or not digits.isdigit() or len(digits) > 12:
            raise ConfigError(field, f"{text!r} is no count.", hint="Type a whole number.")
        return int(digits)
    if field in _CHOICES:
        return _one_of(field, text, _CHOICES[field]) if text else _DEFAULTS[field]
    if field in _TEXTS:
        return text or _DEFAULTS[field]
    if field == "use_specialization":
        return _SWITCHES[_one_of(field, text, tuple(_SWITCHES))] if text else _DEFAULTS[field]
    raise ConfigError(field, "cannot be edited.")


def edit_text(config: RuntimeConfig, field: str) -> str:
    """Return what a person would type to get the field's value; "" where it is automatic."""
    value = getattr(config, field)
    if value == _DEFAULTS[field]:
        return ""
    if isinstance(value, bool):
        return next(text for text, switch in _SWITCHES.items() if switch == value)
    return str(value)


def without_choices(names: tuple[str, ...]) -> dict[str, Value]:
    """Return the changes that leave these fields to the planner."""
    return {name: _DEFAULTS[name] for name in names}


def reason_of(error: ConfigError) -> str:
    """Return what is wrong, where the field is named already."""
    return error.message.removeprefix(f"{error.field}: ")


def _one_of(field: str, text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise ConfigError(field, f"{text!r} is unknown.", hint=f"Choose {', '.join(known)}.")
    return text
