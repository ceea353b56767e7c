"""Sums over tensor headers: bytes and parameters per decoder layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from ollm_widgets.errors import MalformedModelError
from ollm_widgets.models.files import ModelFiles
from ollm_widgets.models.quantization import Quantization, kept_as_stored, logical_elements
from ollm_widgets.models.shape import WeightInventory
from ollm_widgets.models.tensors import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    SINGLE_NAME,
    TensorHeader,
    shards_of_index,
)

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|blk)\.(\d+)\.")
# Safetensors name experts one by one or stacked, GGUF ``ffn_down_exps`` (once ``ffn_down.0``).
_EXPERT = re.compile(
    r"\.experts\.(?!e_score_correction_bias)"
    r"|\.block_sparse_moe\.(?:input|output)_linear\."
    r"|^blk\.\d+\.ffn_(?:gate|up|down|gate_up)(?:_exps|\.\d+)\."
)
_TOWER = re.compile(
    r"(?:^|[._])(?:vision|visual|image|audio|speech|encoder|mtp"
    r"|resampler|projector|connector|qformer)(?:[._]|$)"
)
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|token_embd|shared|embeddings)\.weight$"
)
_OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.weight$")


def weight_files(files: ModelFiles) -> tuple[str, ...]:
    """Name the safetensors files that transformers would load, whether or not they exist.

    Like transformers: ``model.safetensors`` first, else the shards of the index.
    """
    if files.has(SINGLE_NAME):
        return (SINGLE_NAME,)
    if files.has(INDEX_NAME):
        return tuple(shard_names(files))
    return ()


def shard_names(files: ModelFiles) -> dict[str, tuple[str, ...]]:
    """Read the safetensors index: the tensors that each shard should hold."""
    index = files.read_json(INDEX_NAME, MAX_INDEX_BYTES)
    return shards_of_index(f"{files.place}/{INDEX_NAME}", index)


def read_safetensors_inventory(
    files: ModelFiles,
    quantization: Quantization | None = None,
    layers: int | None = None,
) -> tuple[WeightInventory, bool]:
    """Sum the headers of a model's safetensors files.

    Parameters
    ----------
    files
        The model's files.
    quantization, layers
        See `sum_headers`.

    Returns
    -------
    WeightInventory, bool
        The sums, and whether there is an output projection of its own.

    Raises
    ------
    MalformedModelError
        When a file is damaged or missing.
    """
    names = weight_files(files)
    if not names:
        raise MalformedModelError(f"{files.place} holds no {SINGLE_NAME} and no {INDEX_NAME}.")
    headers = [header for name in names for header in files.tensor_headers(name)]
    return sum_headers(headers, names, quantization, layers), has_output_projection(headers)


def has_output_projection(headers: Iterable[TensorHeader]) -> bool:
    """Whether a tensor other than the embedding projects onto the vocabulary."""
    return any(_OUTPUT.search(header.name) for header in headers)


def sum_headers(
    headers: Sequence[TensorHeader],
    files: tuple[str, ...],
    quantization: Quantization | None = None,
    layers: int | None = None,
) -> WeightInventory:
    """Sort tensors into decoder layers, embedding and the rest, and add them up.

    Parameters
    ----------
    headers
        The tensors.
    files
        Names of the files that hold them.
    quantization
        How the checkpoint is quantized; ``None`` for a plain one.
    layers
        Decoder layers that the config states: further ones, which predict several tokens ahead,
        are no part of the decoder.
    """
    layer_bytes: Counter[int] = Counter()
    layer_parameters: Counter[int] = Counter()
    expert_bytes: Counter[int] = Counter()
    expert_parameters: Counter[int] = Counter()
    quantized_bytes: Counter[int] = Counter()
    quantized_parameters: Counter[int] = Counter()
    quantized_expert_bytes: Counter[int] = Counter()
    quantized_expert_parameters: Counter[int] = Counter()
    elements_of_dtype: Counter[str] = Counter()
    kept = kept_as_stored(headers, quantization)
    embedding_bytes = embedding_parameters = other_bytes = other_parameters = 0
    for header in headers:
        elements = logical_elements(header, quantization)
        elements_of_dtype[header.dtype] += elements
        layer = None if _TOWER.search(header.name) else _LAYER.search(header.name)
        if layer is not None:
            number = int(layer.group(1))
            layer_bytes[number] += header.size_bytes
            layer_parameters[number] += elements
            is_expert = _EXPERT.search(header.name) is not None
            if is_expert:
                expert_bytes[number] += header.size_bytes
                expert_parameters[number] += elements
            if header.name in kept:
                quantized_bytes[number] += header.size_bytes
                quantized_parameters[number] += elements
            if is_expert and header.name in kept:
                quantized_expert_bytes[number] += header.size_bytes
                quantized_expert_parameters[number] += elements
        elif _EMBEDDING.search(header.name) and not _TOWER.search(header.name):
            embedding_bytes += header.size_bytes
            embedding_parameters += elements
        else:
            other_bytes += header.size_bytes
            other_parameters += elements
    # Numbers that leave a gap are no layers of the decoder (a stray index, a side network).
    count = next((n for n in range(len(layer_bytes) + 1) if n not in layer_bytes), 0)
    count = min(count, layers or count)
    decoder = range(count if kept else 0)
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
        expert_bytes=tuple(expert_bytes[n] for n in range(count)),
        expert_parameters=tuple(expert_parameters[n] for n in range(count)),
        quantized_bytes=tuple(quantized_bytes[n] for n in decoder),
        quantized_parameters=tuple(quantized_parameters[n] for n in decoder),
        quantized_expert_bytes=tuple(quantized_expert_bytes[n] for n in decoder),
        quantized_expert_parameters=tuple(quantized_expert_parameters[n] for n in decoder),
    )
