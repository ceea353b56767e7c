"""Numbers as a person reads them, and sizes as a person types them."""

from __future__ import annotations

import math
import re

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB")
_COUNTS = ("", "k", "M", "B", "T", "Q")
_POWERS = {
    "": 1,
    "b": 1,
    **{unit.lower(): 1000**n for n, unit in enumerate(_DECIMAL) if n},
    **{unit.lower(): 1024**n for n, unit in enumerate(("", "KiB", "MiB", "GiB", "TiB")) if n},
}
_SIZE = re.compile(r"\s*(\d{1,20}(?:\.\d{0,9})?)\s*([a-z]*)\s*", re.IGNORECASE)
_ACCEPTED = 'a number of bytes, or a number with kB, MB, GB, TB, KiB, MiB, GiB or TiB ("6GiB")'


def format_bytes(size_bytes: float) -> str:
    """Return the size of a file or a transfer in decimal units: ``"269 MB"``, ``"16.1 GB"``."""
    return _scaled(size_bytes, _DECIMAL, " ", keep_decimal_to=2)


def format_memory(size_bytes: float) -> str:
    """Return a size of memory in binary units: ``"7.6 GiB"``, and ``"513 MiB"`` when small."""
    mib = abs(size_bytes) / 1024**2
    if mib == 0:
        return "0 GiB"
    if mib < 1:
        text = "under 1 MiB"
    elif mib < 999.5:
        text = f"{mib:.0f} MiB"
    elif mib < 1000 * 1024:
        gib = mib / 1024
        text = f"{gib:.1f} GiB" if gib < 99.95 else f"{gib:.0f} GiB"
    else:
        text = f"{mib / 1024**2:.1f} TiB"
    return f"-{text}" if size_bytes < 0 else text


def format_count(count: float) -> str:
    """Return a count of parameters or tokens: ``"135M"``, ``"8.0B"``, ``"12.2B"``, ``"80B"``."""
    text = _scaled(count, _COUNTS, "", keep_decimal_to=1)
    return re.sub(r"(\d\d)\.0", r"\1", text)


def format_seconds(seconds: float) -> str:
    """Return a duration: ``"12 ms"``, ``"0.5 s"``, ``"9 s"``, ``"15 min"``, ``"1 h 3 min"``."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 0.0995:
        ms = seconds * 1000
        return f"{ms:.0f} ms" if ms >= 9.95 or ms == 0 else f"{ms:.1f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(seconds / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def parse_bytes(size: int | str) -> int:
    """Return the bytes in ``"6GiB"``, ``"512 MB"``, or a plain number.

    Raises
    ------
    ValueError
        With what is accepted, when the text is none of it.
    """
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        # Not a TypeError: sizes come from forms, where a wrong type is a wrong value.
        raise ValueError(f"{size!r} is not a size; write {_ACCEPTED}.")
    if isinstance(size, int):
        if size < 0:
            raise ValueError(f"{size} bytes is below zero; write {_ACCEPTED}.")
        return size
    match = _SIZE.fullmatch(size)
    factor = _POWERS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{size!r} is not a size; write {_ACCEPTED}.")
    whole, _, fraction = match[1].partition(".")
    scaled = int(whole + fraction) * factor
    return int(scaled // 10 ** len(fraction))


def _scaled(value: float, units: tuple[str, ...], space: str, *, keep_decimal_to: int) -> str:
    """Scale by thousands; one decimal under 10, and under 100 from unit `keep_decimal_to + 1`."""
    magnitude, step = abs(float(value)), 0
    while magnitude >= (999.5 if step else 1000) and step < len(units) - 1:
        magnitude /= 1000
        step += 1
    decimals = step > 0 and (magnitude < 9.95 or (step > keep_decimal_to and magnitude < 99.95))
    number = f"{magnitude:.1f}" if decimals else f"{magnitude:.0f}"
    sign = "-" if value < 0 and number.strip("0.") else ""
    return f"{sign}{number}{space}{units[step]}".strip()
