"""``%%ollm --fill``: expressions in the cell, replaced by their values."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any

from ollm_widgets.errors import ConfigError
from ollm_widgets.render.text import printable

_FLAG = "--fill"
# An expression may hold braces of its own: so many closing ones are tried as its end.
_MOST_ENDS = 64
_SHOWN_CHARACTERS = 60
_CONVERSIONS: dict[str, Callable[[object], str]] = {"!r": repr, "!s": str, "!a": ascii}


def fill(text: str, variables: Mapping[str, Any]) -> str:
    """Replace each ``{expression}`` by its value, as an f-string would.

    A conversion (``{name!r}``) and a format (``{price:.2f}``) may follow the expression; doubled
    braces stand for single ones. Braces in a value are left alone.

    Parameters
    ----------
    text
        What a person typed.
    variables
        Names that expressions may use: the notebook's variables.

    Raises
    ------
    ConfigError
        For the first expression that cannot be read, or fails; it names it and says why.
    """
    return "".join(_pieces(text, variables))


def _pieces(text: str, variables: Mapping[str, Any]) -> Iterator[str]:
    at = 0
    while at < len(text):
        brace = next((i for i in range(at, len(text)) if text[i] in "{}"), len(text))
        yield text[at:brace]
        if text[brace : brace + 2] in ("{{", "}}"):
            yield text[brace]
            at = brace + 2
        elif text[brace : brace + 1] == "}":
            raise ConfigError(
                _FLAG,
                f"line {text.count(chr(10), 0, brace) + 1} has a }} that closes nothing.",
                hint="Write }} for a brace that stays.",
            )
        elif brace < len(text):
            value, at = _value(text, brace, variables)
            yield value
        else:
            at = brace


def _value(text: str, brace: int, variables: Mapping[str, Any]) -> tuple[str, int]:
    """Return the value of the field that opens at `brace`, and where the text goes on."""
    end, problem, shown = brace, "", ""
    for _ in range(_MOST_ENDS):
        end = text.find("}", end + 1)
        if end < 0:
            break
        field = text[brace + 1 : end]
        shown = shown or _short(field)
        try:
            code, conversion, spec = _parsed(field)
        except SyntaxError as error:
            problem = problem or str(error.msg)
            continue
        return _evaluated(field, code, conversion, spec, variables), end + 1
    if not shown:
        line = text.count("\n", 0, brace) + 1
        raise ConfigError(
            _FLAG,
            f"line {line} has a {{ that is never closed.",
            hint="Write {{ for a brace that stays.",
        )
    raise ConfigError(
        _FLAG,
        f"{shown} is no expression ({problem}).",
        hint="Write {{ and }} for braces that stay.",
    )


def _parsed(field: str) -> tuple[CodeType, str, str]:
    """Return the compiled expression of a field, its conversion and its format.

    Raises
    ------
    SyntaxError
        If it has none.
    """
    first: SyntaxError | None = None
    # A colon may belong to the expression or begin the format: the longest expression wins.
    ends = [len(field), *(i for i in reversed(range(len(field))) if field[i] == ":")]
    for end in ends[:_MOST_ENDS]:
        expression, spec = field[:end], field[end + 1 :]
        bare = expression.rstrip()
        conversion = bare[-2:] if bare[-2:] in _CONVERSIONS else ""
        try:
            tree = ast.parse(bare[: len(bare) - len(conversion)].strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            known = error if isinstance(error, SyntaxError) else SyntaxError("it cannot be read")
            first = first or known
            continue
        return compile(tree, "%%ollm", "eval"), conversion, spec
    raise first or SyntaxError("it is empty")


def _evaluated(
    field: str, code: CodeType, conversion: str, spec: str, variables: Mapping[str, Any]
) -> str:
    try:
        # The person's own expression, in the person's own notebook, because it was asked for.
        value = eval(code, dict(variables))
        if conversion:
            value = _CONVERSIONS[conversion](value)
        return format(value, spec)
    except Exception as error:
        why = printable(f"{type(error).__name__}: {error}")
        raise ConfigError(_FLAG, f"{_short(field)} failed: {why}.") from error


def _short(field: str) -> str:
    text = printable(field)
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}..."
    return f"{{{text}}}"
