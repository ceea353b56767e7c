"""What stands for all tokens so far (linear attention), as one record of its own.

The header of `pages`, then a safetensors file with the names of `contents.special_state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save

from ollm_widgets.errors import KVPageError
from ollm_widgets.kv.contents import special_state
from ollm_widgets.kv.persistent.kinds import STATE
from ollm_widgets.kv.persistent.pages import HEADER_BYTES, header_of

if TYPE_CHECKING:
    import torch
    from transformers import Cache

# States are exact whatever codec the pages have.
_CODEC = "full"


def encode_state(cache: Cache, block_hash: bytes) -> bytes:
    """Record of the states that `cache` has at the end of a block."""
    state = {name: tensor.cpu() for name, tensor in special_state(cache, sliding=False).items()}
    return header_of(block_hash, STATE, 0, _CODEC) + save(state)


def decode_state(record: bytearray, block_hash: bytes) -> Mapping[str, torch.Tensor]:
    """The states of a record.

    Raises
    ------
    KVPageError
        When it is another block's, or no record of states.
    """
    if bytes(record[:HEADER_BYTES]) != header_of(block_hash, STATE, 0, _CODEC):
        raise KVPageError("A record of states is that of another block.")
    try:
        return load(bytes(record[HEADER_BYTES:]))
    except SafetensorError as error:
        raise KVPageError(f"A record of states cannot be read: {error}.") from error
