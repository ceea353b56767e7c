"""Whether the files of a model are all there, and which are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ollm_widgets.errors import UnsupportedModelError
from ollm_widgets.models.config_file import read_text
from ollm_widgets.models.files import MAX_TOKENIZER_CONFIG_BYTES, FolderFiles, ModelFiles
from ollm_widgets.models.gguf_header import read_gguf_header
from ollm_widgets.models.inventory import shard_names, weight_files
from ollm_widgets.models.kinds import modalities_of
from ollm_widgets.models.safety import pickle_files
from ollm_widgets.models.tensors import INDEX_NAME, SINGLE_NAME

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
    gguf_files = find_gguf_files(path)
    files = FolderFiles(path)
    if gguf_files and not files.has("config.json"):
        return tuple(gap for file in gguf_files for gap in _gguf_gaps(file))
    return find_gaps_in(files, gguf_files)


def find_gaps_in(files: ModelFiles, gguf_files: tuple[Path, ...] = ()) -> tuple[str, ...]:
    """List what a set of files lacks to be a model.

    Parameters
    ----------
    files
        The model's files, on this machine or elsewhere.
    gguf_files
        GGUF files that may stand in for safetensors.
    """
    return (*_config_gaps(files), *_weight_gaps(files, gguf_files), *_tokenizer_gaps(files))


def find_gguf_files(folder: Path) -> tuple[Path, ...]:
    """GGUF files of a folder that hold a language model, sorted by name."""
    return tuple(
        sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() == ".gguf" and "mmproj" not in path.name.lower()
        )
    )


def has_tokenizer(files: ModelFiles) -> bool:
    """Whether a tokenizer's files are there."""
    names = files.names()
    if any(all(name in names for name in group) for group in _TOKENIZER_FILES):
        return True
    if any(name.endswith(".tiktoken") for name in names):
        return True
    if "tokenizer_config.json" not in names:
        return False
    try:
        tokenizer = files.read_json("tokenizer_config.json", MAX_TOKENIZER_CONFIG_BYTES)
    except UnsupportedModelError:
        return False
    return read_text(tokenizer, "tokenizer_class") in _BYTE_TOKENIZERS


def _config_gaps(files: ModelFiles) -> Iterator[str]:
    if not files.has("config.json"):
        yield f"{files.place}/config.json is missing."
        return
    try:
        config = files.read_json("config.json")
    except UnsupportedModelError as error:
        yield error.message
        return
    if len(modalities_of(config)) > 1 and not any(files.has(name) for name in _PROCESSOR_FILES):
        yield f"{files.place} has no processor ({' or '.join(_PROCESSOR_FILES)})."


def _weight_gaps(files: ModelFiles, gguf_files: tuple[Path, ...]) -> Iterator[str]:
    try:
        names = weight_files(files)
        shards = {} if names in ((), (SINGLE_NAME,)) else shard_names(files)
    except UnsupportedModelError as error:
        yield error.message
        return
    if not names and gguf_files:
        for file in gguf_files:
            yield from _gguf_gaps(file)
    elif not names:
        pickles = pickle_files(files)
        rest = f"; its pickle files ({', '.join(pickles)}) are never read" if pickles else ""
        yield f"{files.place} has no weights: neither {SINGLE_NAME} nor {INDEX_NAME}{rest}."
    for name in names:
        yield from _shard_gaps(files, name, shards.get(name, ()))


def _shard_gaps(files: ModelFiles, name: str, expected: tuple[str, ...]) -> Iterator[str]:
    path = f"{files.place}/{name}"
    if not files.has(name):
        yield f"{path} is missing."
        return
    try:
        present = {header.name for header in files.tensor_headers(name)}
    except UnsupportedModelError as error:
        yield error.message
        return
    lacking = [name for name in expected if name not in present]
    if lacking:
        yield f"{path} lacks {len(lacking)} tensors that the index names, {lacking[0]!r} first."


def _tokenizer_gaps(files: ModelFiles) -> Iterator[str]:
    if not has_tokenizer(files):
        names = "tokenizer.json, tokenizer.model, or vocab and merges"
        yield f"{files.place} has no tokenizer ({names})."


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
