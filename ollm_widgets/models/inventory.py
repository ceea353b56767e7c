"""Sums over tensor headers: bytes and parameters per decoder layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ollm_widgets.errors import MalformedModelError
from ollm_widgets.models.shape import WeightInventory
from ollm_widgets.models.tensors import (
    INDEX_NAME,
    SINGLE_NAME,
    TensorHeader,
    read_safetensors_header,
    read_shard_names,
)

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|blk)\.(\d+)\.")
_TOWER = re.compile(r"(?:^|[._])(?:vision|visual|image|audio|speech|encoder|mtp)(?:[._]|$)")
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|token_embd|shared)\.weight$"
)
_OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.weight$")


def weight_files(folder: Path) -> tuple[str, ...]:
    """Name the safetensors files that transformers would load, whether or not they exist.

    Like transformers: ``model.safetensors`` first, else the shards of the index.
    """
    if (folder / SINGLE_NAME).exists():
        return (SINGLE_NAME,)
    if (folder / INDEX_NAME).exists():
        return tuple(read_shard_names(folder))
    return ()


def read_safetensors_inventory(folder: Path) -> tuple[WeightInventory, bool]:
    """Sum the headers of a folder's safetensors files.

    Returns
    -------
    WeightInventory, bool
        The sums, and whether there is an output projection of its own.

    Raises
    ------
    MalformedModelError
        When a file is damaged or missing.
    """
    files = weight_files(folder)
    if not files:
        raise MalformedModelError(f"{folder} holds no {SINGLE_NAME} and no {INDEX_NAME}.")
    headers = [header for name in files for header in read_safetensors_header(folder / name)]
    return sum_headers(headers, files), has_output_projection(headers)


def has_output_projection(headers: Iterable[TensorHeader]) -> bool:
    """Whether a tensor other than the embedding projects onto the vocabulary."""
    return any(_OUTPUT.search(header.name) for header in headers)


def sum_headers(headers: Sequence[TensorHeader], files: tuple[str, ...]) -> WeightInventory:
    """Sort tensors into decoder layers, embedding and the rest, and add them up."""
    layer_bytes: Counter[int] = Counter()
    layer_parameters: Counter[int] = Counter()
    elements_of_dtype: Counter[str] = Counter()
    embedding_bytes = embedding_parameters = other_bytes = other_parameters = 0
    for header in headers:
        elements = _logical_elements(header)
        elements_of_dtype[header.dtype] += elements
        layer = None if _TOWER.search(header.name) else _LAYER.search(header.name)
        if layer is not None:
            layer_bytes[int(layer.group(1))] += header.size_bytes
            layer_parameters[int(layer.group(1))] += elements
        elif _EMBEDDING.search(header.name) and not _TOWER.search(header.name):
            embedding_bytes += header.size_bytes
            embedding_parameters += elements
        else:
            other_bytes += header.size_bytes
            other_parameters += elements
    # Numbers that leave a gap are no layers of the decoder (a stray index, a side network).
    count = next((n for n in range(len(layer_bytes) + 1) if n not in layer_bytes), 0)
    stray = [n for n in layer_bytes if n >= count]
    return WeightInventory(
        total_bytes=sum(header.size_bytes for header in headers),
        parameters=sum(elements_of_dtype.values()),
        dtype=elements_of_dtype.most_common(1)[0][0] if elements_of_dtype else "unknown",
        layer_bytes=tuple(layer_bytes[n] for n in range(count)),
        layer_parameters=tuple(layer_parameters[n] for n in range(count)),
        embedding_bytes=embedding_bytes,
        embedding_parameters=embedding_parameters,
        other_bytes=other_bytes + sum(layer_bytes[n] for n in stray),
        other_parameters=other_parameters + sum(layer_parameters[n] for n in stray),
        files=files,
    )


def _logical_elements(header: TensorHeader) -> int:
    # MXFP4 checkpoints pack two weights into each byte of "..._blocks" and keep the blocks'
    # exponents in "..._scales", which are no parameters.
    if header.dtype == "uint8" and header.name.endswith("_blocks"):
        return header.elements * 2
    if header.dtype == "uint8" and header.name.endswith("_scales"):
        return 0
    return header.elements
