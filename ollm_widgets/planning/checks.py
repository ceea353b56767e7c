"""Checks of single values, each of which names the field and the fix."""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path
from typing import Any, get_args

from ollm_widgets.errors import ConfigError
from ollm_widgets.render.units import parse_bytes

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?|ray(:(cpu|cuda))?")


def check_reference(field: str, value: object) -> None:
    """Require some text; what it names is the resolver's business."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            field,
            f"{value!r} names no model.",
            hint="Name an alias (smollm2-135m), a hub repository (org/name) or a folder.",
        )


def check_folder(field: str, value: object) -> None:
    """Require a path, or None."""
    if value is None:
        return
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ConfigError(
            field, f"{value!r} is not a folder.", hint="Write a path, or None for none."
        )
    try:
        Path(value).expanduser()
    except RuntimeError:
        raise ConfigError(
            field,
            f"nobody here has the home folder that {str(value)!r} begins with.",
            hint="Write the whole path, or ~/ for your own.",
        ) from None


def check_name(field: str, value: object) -> None:
    """Require some text without spaces around it, or None."""
    if value is None or (isinstance(value, str) and value and value == value.strip()):
        return
    raise ConfigError(field, f"{value!r} is no name.", hint='Write "chat", or None for none.')


def check_device(field: str, value: object) -> None:
    """Require ``auto`` or the name of a device, there or not."""
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise ConfigError(
            field,
            f"{value!r} is not known.",
            hint="Use auto, cpu, cuda, cuda:0 (or another index), mps, or ray for a cluster.",
        )


def check_texts(field: str, value: object) -> None:
    """Require a tuple of texts, none of them empty."""
    if not isinstance(value, tuple) or not all(isinstance(text, str) and text for text in value):
        raise ConfigError(
            field,
            f"{value!r} is not a row of texts that are not empty.",
            hint='Write ("END",), or () for none.',
        )


def check_choice(field: str, value: object, choices: Any, *, optional: bool = False) -> None:
    """Require one of the values of the `Literal` `choices`, or None where `optional`."""
    accepted = get_args(choices)
    if (optional and value is None) or (isinstance(value, str) and value in accepted):
        return
    close = difflib.get_close_matches(str(value), accepted, n=1)
    listed = ", ".join(accepted) + (", or None for automatic" if optional else "")
    meant = f"Did you mean {close[0]}? " if close else ""
    raise ConfigError(field, f"{value!r} is not known.", hint=f"{meant}Use one of: {listed}.")


def check_flag(field: str, value: object) -> None:
    """Require True or False."""
    if not isinstance(value, bool):
        raise ConfigError(
            field, f"{value!r} is neither True nor False.", hint="Write True or False."
        )


def check_count(field: str, value: object, *, least: int, unit: str, optional: bool = True) -> None:
    """Require a whole number of at least `least`, or None where `optional`."""
    if optional and value is None:
        return
    automatic = ", or None to let the planner decide" if optional else ""
    hint = f"Write a whole number of {unit} from {least} up{automatic}."
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(field, f"{value!r} is not a whole number.", hint=hint)
    if value < least:
        raise ConfigError(field, f"{value} is below {least}.", hint=hint)


def check_number(
    field: str,
    value: object,
    *,
    low: float,
    high: float = math.inf,
    above_low: bool = False,
    optional: bool = True,
) -> None:
    """Require a finite number from `low` (or above it) to `high`, or None where `optional`."""
    if optional and value is None:
        return
    start = f"above {low:g}" if above_low else f"from {low:g}"
    end = f" up to {high:g}" if math.isfinite(high) else ""
    hint = f"Write a number {start}{end}."
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(field, f"{value!r} is not a finite number.", hint=hint)
    if value < low or value > high or (above_low and value == low):
        raise ConfigError(field, f"{value} is out of range.", hint=hint)


def check_budget(field: str, value: int | str | None) -> None:
    """Require a size above zero such as ``"6GiB"``, or None for what is free."""
    if value is None:
        return
    try:
        size_bytes = parse_bytes(value)
    except ValueError as error:
        raise ConfigError(field, str(error)) from error
    if size_bytes == 0:
        raise ConfigError(
            field, "a budget of 0 bytes holds nothing.", hint='Write a size such as "6GiB".'
        )
