"""Typed parts as plain values for JSON, and fields that came from plain values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from os import PathLike, fspath
from typing import Any, Self

from ollm_widgets.errors import ConfigError


def plain(value: object) -> Any:
    """Return a value as `json.dumps` takes it, with ``allow_nan=False``.

    A dataclass becomes a dict of its fields, a set a sorted list, a path its text, and a number
    that is not finite None.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    return _plain_scalar(value)


def _plain_scalar(value: object) -> Any:
    if isinstance(value, Enum):
        return _plain_scalar(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return fspath(value) if isinstance(value, PathLike) else str(value)


class PlainFields:
    """A dataclass that is written as plain values, and read back from them."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build what `as_dict` gave, or what somebody wrote as JSON; it is checked.

        Raises
        ------
        ConfigError
            For a name that is no field, and for a value that cannot work; it names the field
            and the fix.
        """
        made = cls(**named_fields(cls, values))
        made.validate()
        return made

    def as_dict(self) -> dict[str, Any]:
        """Return every field as a plain value that `json.dumps` takes; paths are texts."""
        named: dict[str, Any] = plain(self)
        return named

    def validate(self) -> None:
        """Check every field; raises `ConfigError`."""
        raise NotImplementedError


def named_fields(kind: type, values: object) -> dict[str, Any]:
    """Check that plain values name fields of a dataclass, and all those without a default.

    Raises
    ------
    ConfigError
        For what is no mapping, for a name that is no field (with the nearest that is), and for
        a field that is missing.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            kind.__name__,
            f"{type(values).__name__} is no mapping of fields to values.",
            hint='Give a dict such as {"model_reference": "smollm2-135m"}.',
        )
    known = {item.name: item for item in fields(kind)}
    for name in values:
        if name in known:
            continue
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"The fields are {', '.join(known)}."
        raise ConfigError(str(name), "there is no field of that name.", hint=hint)
    for name, item in known.items():
        if name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError(name, "it is missing, and has no default.", hint=f"Give {name}.")
    return dict(values)
