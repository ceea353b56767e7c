"""Which of a repository's files a runtime needs: never code, never pickle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from ollm_widgets.models.config_file import MAX_CONFIG_BYTES, JSONObject, read_json_object
from ollm_widgets.models.hub_listing import HubFile, HubListing
from ollm_widgets.models.tensors import (
    INDEX_NAME,
    SINGLE_NAME,
    TensorHeader,
    read_safetensors_header,
)

CONFIG_NAME = "config.json"
_SMALL_FILES = (
    CONFIG_NAME,
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "normalizer.json",
    "spiece.model",
    "source.spm",
    "target.spm",
    "sentencepiece.bpe.model",
    "tekken.json",
    "*.tiktoken",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)


def small_files(files: Mapping[str, HubFile]) -> tuple[HubFile, ...]:
    """Configs, tokenizer, processor and chat templates, and the index of the weights.

    The index is left out where ``model.safetensors`` makes it needless, as transformers does.
    """
    wanted = [
        file
        for name, file in sorted(files.items())
        if any(
            name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)
            for pattern in _SMALL_FILES
        )
    ]
    if SINGLE_NAME not in files and INDEX_NAME in files:
        wanted.append(files[INDEX_NAME])
    return tuple(wanted)


def likely_weights(files: Mapping[str, HubFile]) -> tuple[HubFile, ...]:
    """Weights as far as they can be told before the index is read."""
    if SINGLE_NAME in files:
        return (files[SINGLE_NAME],)
    if INDEX_NAME not in files:
        return ()
    return tuple(
        file for name, file in sorted(files.items()) if fnmatchcase(name, "model*.safetensors")
    )


def gguf_names(files: Iterable[str]) -> tuple[str, ...]:
    """GGUF files that hold a language model, sorted."""
    return tuple(
        sorted(
            name
            for name in files
            if name.lower().endswith(".gguf") and "mmproj" not in name.lower() and "/" not in name
        )
    )


class StagedFiles:
    """A repository's files as far as they have come, for the checks that a folder gets.

    Parameters
    ----------
    listing
        What the repository has.
    places
        Where each file that has come is.
    """

    def __init__(self, listing: HubListing, places: Mapping[str, Path]) -> None:
        self._listing = listing
        self._places = places

    @property
    def place(self) -> str:
        """The repository's id."""
        return self._listing.repo_id

    def names(self) -> tuple[str, ...]:
        """Names of the repository's top-level files, sorted."""
        return tuple(sorted(name for name in self._listing.files if "/" not in name))

    def has(self, name: str) -> bool:
        """Whether the file has come."""
        return name in self._places

    def read_json(self, name: str, limit_bytes: int = MAX_CONFIG_BYTES) -> JSONObject:
        """Read one of the JSON files that have come."""
        return read_json_object(self._places[name], limit_bytes)

    def tensor_headers(self, name: str) -> tuple[TensorHeader, ...]:
        """Read the header of one of the safetensors files that have come."""
        return read_safetensors_header(self._places[name])
