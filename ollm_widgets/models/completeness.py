"""Whether the files of a model are all there, and which are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ollm_widgets.errors import UnsupportedModelError
from ollm_widgets.models.config_file import read_config, read_json_object, read_text
from ollm_widgets.models.gguf_header import read_gguf_header
from ollm_widgets.models.inventory import weight_files
from ollm_widgets.models.kinds import modalities_of
from ollm_widgets.models.safety import pickle_files
from ollm_widgets.models.tensors import (
    INDEX_NAME,
    SINGLE_NAME,
    read_safetensors_header,
    read_shard_names,
)

_TOKENIZER_FILES = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("tekken.json",),
)
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
# Tokenizers that read bytes and need no vocabulary file.
_BYTE_TOKENIZERS = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")


def find_gaps(path: Path) -> tuple[str, ...]:
    """List what is missing or damaged in a model's folder, or in a GGUF file.

    Parameters
    ----------
    path
        Model folder, or ``.gguf`` file.

    Returns
    -------
    tuple of str
        One sentence a gap; empty when the model is complete.
    """
    if path.is_file():
        return tuple(_gguf_gaps(path))
    if not path.is_dir():
        return (f"{path} does not exist.",)
    if not (path / "config.json").exists():
        gguf_files = find_gguf_files(path)
        if gguf_files:
            return tuple(gap for file in gguf_files for gap in _gguf_gaps(file))
    return (*_config_gaps(path), *_weight_gaps(path), *_tokenizer_gaps(path))


def find_gguf_files(folder: Path) -> tuple[Path, ...]:
    """GGUF files of a folder that hold a language model, sorted by name."""
    return tuple(
        sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() == ".gguf" and "mmproj" not in path.name.lower()
        )
    )


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer's files."""
    if any(all((folder / name).is_file() for name in names) for names in _TOKENIZER_FILES):
        return True
    if any(path.suffix == ".tiktoken" for path in folder.iterdir()):
        return True
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return False
    try:
        return read_text(read_json_object(path), "tokenizer_class") in _BYTE_TOKENIZERS
    except UnsupportedModelError:
        return False


def _config_gaps(folder: Path) -> Iterator[str]:
    if not (folder / "config.json").exists():
        yield f"{folder / 'config.json'} is missing."
        return
    try:
        config = read_config(folder)
    except UnsupportedModelError as error:
        yield error.message
        return
    if len(modalities_of(config)) > 1 and not any(
        (folder / name).is_file() for name in _PROCESSOR_FILES
    ):
        yield f"{folder} has no processor ({' or '.join(_PROCESSOR_FILES)})."


def _weight_gaps(folder: Path) -> Iterator[str]:
    try:
        files = weight_files(folder)
        shard_names = {} if files in ((), (SINGLE_NAME,)) else read_shard_names(folder)
    except UnsupportedModelError as error:
        yield error.message
        return
    if not files:
        if find_gguf_files(folder):
            for file in find_gguf_files(folder):
                yield from _gguf_gaps(file)
            return
        pickles = pickle_files(folder)
        rest = f"; its pickle files ({', '.join(pickles)}) are never read" if pickles else ""
        yield f"{folder} has no weights: neither {SINGLE_NAME} nor {INDEX_NAME}{rest}."
    for name in files:
        yield from _shard_gaps(folder / name, shard_names.get(name, ()))


def _shard_gaps(path: Path, expected: tuple[str, ...]) -> Iterator[str]:
    if not path.exists():
        yield f"{path} is missing."
        return
    try:
        present = {header.name for header in read_safetensors_header(path)}
    except UnsupportedModelError as error:
        yield error.message
        return
    lacking = [name for name in expected if name not in present]
    if lacking:
        yield f"{path} lacks {len(lacking)} tensors that the index names, {lacking[0]!r} first."


def _tokenizer_gaps(folder: Path) -> Iterator[str]:
    if not has_tokenizer(folder):
        yield f"{folder} has no tokenizer (tokenizer.json, tokenizer.model, or vocab and merges)."


def _gguf_gaps(path: Path) -> Iterator[str]:
    try:
        header = read_gguf_header(path)
    except UnsupportedModelError as error:
        yield error.message
        return
    if not header.tensors:
        yield f"{path} holds no tensors."
    if not header.array_length("tokenizer.ggml.tokens"):
        yield f"{path} carries no tokenizer."
