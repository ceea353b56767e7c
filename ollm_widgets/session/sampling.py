"""How the next answers are generated, as a person sets it field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.session.edits import reason_of

FieldKind = Literal["count", "number", "texts"]

KINDS: Mapping[str, FieldKind] = MappingProxyType(
    {
        "temperature": "number",
        "top_p": "number",
        "top_k": "count",
        "min_p": "number",
        "repetition_penalty": "number",
        "max_new_tokens": "count",
        "seed": "count",
        "stop": "texts",
    }
)
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(GenerationConfig)}
# A seed has to fit what seeds generators.
_MOST_DIGITS = 12
_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"))


@dataclass(frozen=True, slots=True)
class SamplingPreset:
    """Values that go by a name; what is not named is left to the model."""

    id: str
    title: str
    help: str
    temperature: float
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def over(self, generation: GenerationConfig) -> GenerationConfig:
        """Return `generation` with the preset's values."""
        return replace(
            generation,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
        )


PRESETS = (
    SamplingPreset(
        "exact", "Exact", "Always the likeliest token: the same question, the same answer.", 0.0
    ),
    SamplingPreset(
        "balanced",
        "Balanced",
        "Temperature 0.7, out of the likeliest tokens that make up 90 %.",
        0.7,
        top_p=0.9,
        top_k=0,
    ),
    SamplingPreset(
        "creative",
        "Creative",
        "Temperature 1.1, out of tokens at least 5 % as likely as the likeliest.",
        1.1,
        top_p=1.0,
        top_k=0,
        min_p=0.05,
    ),
)


class Sampling:
    """A `GenerationConfig` that a person edits; a value that cannot work stays with its error.

    Parameters
    ----------
    generation
        What applies; always valid.
    """

    def __init__(self, generation: GenerationConfig) -> None:
        self.generation = generation
        self.unapplied: dict[str, str] = {}
        self.errors: dict[str, str] = {}

    def set(self, field: str, text: str) -> None:
        """Change one field; "" goes back to its default.

        Raises
        ------
        ConfigError
            If there is no field of that name.
        """
        if field not in KINDS:
            raise ConfigError(field, "cannot be set.", hint=f"Choose {', '.join(KINDS)}.")
        self.unapplied.pop(field, None)
        self.errors.pop(field, None)
        try:
            changed = GenerationConfig.from_dict(
                self.generation.as_dict() | {field: _parsed(field, text)}
            )
        except ConfigError as error:
            self.unapplied[field] = text
            # "None" is what code writes; here the box is left empty.
            self.errors[field] = f"{reason_of(error)} {error.hint}".split(", or None")[0].strip()
        else:
            self.generation = changed

    def apply(self, preset_id: str) -> None:
        """Take the values of a preset.

        Raises
        ------
        ConfigError
            If there is none of that id.
        """
        preset = next((one for one in PRESETS if one.id == preset_id), None)
        if preset is None:
            known = ", ".join(one.id for one in PRESETS)
            raise ConfigError("preset", f"{preset_id!r} is unknown.", hint=f"Choose {known}.")
        self.generation = preset.over(self.generation)
        for field in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
            self.unapplied.pop(field, None)
            self.errors.pop(field, None)

    @property
    def preset(self) -> SamplingPreset | None:
        """The preset whose values are what applies; None where there is none."""
        return next((one for one in PRESETS if one.over(self.generation) == self.generation), None)

    def text(self, field: str) -> str:
        """Return what stands in a field: what was typed last, or the value as it would be typed."""
        if field in self.unapplied:
            return self.unapplied[field]
        value = getattr(self.generation, field)
        if value is None:
            return ""
        if isinstance(value, tuple):
            return "\n".join(map(_escaped, value))
        return f"{value:g}" if isinstance(value, float) else str(value)


def _parsed(field: str, text: str) -> Any:
    kind = KINDS[field]
    if kind == "texts":
        return tuple(_unescaped(line) for line in text.split("\n") if line)
    typed = text.strip()
    if not typed:
        return _DEFAULTS[field]
    if kind == "count":
        if not typed.isascii() or not typed.isdigit() or len(typed) > _MOST_DIGITS:
            raise ConfigError(field, f"{typed!r} is no count.", hint="Type a whole number.")
        return int(typed)
    try:
        return float(typed)
    except ValueError:
        raise ConfigError(field, f"{typed!r} is no number.", hint="Type one such as 0.7.") from None


def _escaped(text: str) -> str:
    for character, escape in _ESCAPES:
        text = text.replace(character, escape)
    return text


def _unescaped(text: str) -> str:
    plain = {escape: character for character, escape in _ESCAPES}
    out, rest = "", text
    while rest:
        found = plain.get(rest[:2])
        out += found if found is not None else rest[0]
        rest = rest[2 if found is not None else 1 :]
    return out
