"""How a page of keys and values becomes bytes: in full precision, or quantized."""

from __future__ import annotations

from ollm_widgets.kv.codecs.full import FullCodec
from ollm_widgets.kv.codecs.page import PageCodec, PageShape
from ollm_widgets.kv.codecs.quantized import QuantizedCodec

__all__ = ["FullCodec", "PageCodec", "PageShape", "QuantizedCodec", "codec_named"]


def codec_named(name: str) -> PageCodec:
    """Return a codec by its id: ``full``, ``int8`` or ``int4``.

    Raises
    ------
    KeyError
        For any other name.
    """
    codecs: dict[str, PageCodec] = {
        "full": FullCodec(),
        "int8": QuantizedCodec(bits=8),
        "int4": QuantizedCodec(bits=4),
    }
    return codecs[name]
