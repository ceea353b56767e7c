"""Reading one model's files into facts: config and tensor headers only, no code, no weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ollm_widgets.errors import (
    MalformedModelError,
    UnsafeModelError,
    UnsupportedModelError,
)
from ollm_widgets.models.capabilities import Modality
from ollm_widgets.models.catalog import GenericModelKind
from ollm_widgets.models.completeness import find_gaps, find_gguf_files
from ollm_widgets.models.config_file import (
    JSONObject,
    read_config,
    read_json_object,
    read_text,
    text_config,
)
from ollm_widgets.models.dimensions import shape_from_config, shape_from_gguf
from ollm_widgets.models.gguf_families import GGUF_FAMILIES
from ollm_widgets.models.gguf_header import read_gguf_header
from ollm_widgets.models.inventory import read_safetensors_inventory, sum_headers, weight_files
from ollm_widgets.models.kinds import architecture_of, experts_of, generic_kind_of, modalities_of
from ollm_widgets.models.resolved import Problem, WeightFormat
from ollm_widgets.models.safety import check_code, check_links, check_weight_formats, pickle_files
from ollm_widgets.models.shape import ModelShape, WeightInventory
from ollm_widgets.render.units import format_bytes

# Quantized checkpoints that transformers expands to bfloat16 where the machine lacks a kernel.
_EXPANDABLE = ("mxfp4", "fp8")


@dataclass(frozen=True, slots=True)
class Examination:
    """What the files of a model say about it.

    Parameters
    ----------
    path
        Folder or GGUF file that would be loaded.
    refusal, problem
        Why the model cannot run, and which kind of error that is; ``None`` when it can.
    gaps
        What is missing before it can be loaded.

    The other fields are those of `ResolvedModel` and `CapabilityProfile`.
    """

    path: Path
    refusal: str | None = None
    problem: Problem | None = None
    gaps: tuple[str, ...] = ()
    architecture: str | None = None
    model_type: str | None = None
    kind: GenericModelKind | None = None
    modalities: tuple[Modality, ...] = ("text",)
    shape: ModelShape | None = None
    weights: WeightInventory | None = None
    weight_format: WeightFormat | None = None
    dtype: str | None = None
    has_chat_template: bool | None = None
    experts: int | None = None
    active_experts: int | None = None
    licence: str | None = None
    details: tuple[str, ...] = ()

    def refused(self, error: UnsupportedModelError) -> Examination:
        """Copy that says `error` stands against the model; the first refusal stays."""
        if self.refusal is not None:
            return self
        problem: Problem = "unsupported"
        if isinstance(error, UnsafeModelError):
            problem = "unsafe"
        elif isinstance(error, MalformedModelError):
            problem = "malformed"
        return replace(self, refusal=str(error), problem=problem)


def examine(path: Path) -> Examination:
    """Read a model folder, a GGUF file, or a safetensors file beside its config.

    Never raises for what the files hold: damage and danger become the `refusal`.
    """
    blank = Examination(path)
    try:
        return _examine(path)
    except UnsupportedModelError as error:
        return blank.refused(error)
    except OSError as error:
        return blank.refused(UnsupportedModelError(f"{path} cannot be read: {error}."))


def _examine(path: Path) -> Examination:
    if path.is_file():
        return _examine_file(path)
    if not path.exists():
        kind = "file" if path.suffix.lower() in (".gguf", ".safetensors") else "folder"
        raise UnsupportedModelError(f"{path}: no such {kind}.", hint="Check the path.")
    if not path.is_dir():
        raise UnsafeModelError(f"{path} is neither a folder nor a regular file.")
    if (path / "adapter_config.json").exists() and not weight_files(path):
        raise UnsupportedModelError(
            f"{path} holds a PEFT adapter, not a model.",
            hint="Load its base model and name this folder as adapter_dir.",
        )
    gguf_files = find_gguf_files(path)
    if gguf_files and not weight_files(path):
        return _examine_gguf_folder(path, gguf_files)
    check_weight_formats(path)
    if not (path / "config.json").exists():
        raise UnsupportedModelError(
            f"{path} has no config.json: not a model folder.",
            hint="Name the folder that holds config.json and the weights.",
        )
    check_links(path)
    return _examine_folder(path)


def _examine_file(path: Path) -> Examination:
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return _examine_gguf(path)
    if suffix == ".safetensors":
        if (path.parent / "config.json").exists():
            return _examine(path.parent)
        raise UnsupportedModelError(
            f"{path} stands alone: its folder has no config.json.",
            hint="Name the folder that holds config.json, the weights and the tokenizer.",
        )
    raise UnsupportedModelError(
        f"{path} is not a model: a folder, a .gguf or a .safetensors file is needed."
    )


def _examine_gguf_folder(folder: Path, files: tuple[Path, ...]) -> Examination:
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise UnsupportedModelError(
            f"{folder} holds {len(files)} GGUF files ({names}{', ...' if len(files) > 4 else ''}).",
            hint=f"Name one of them, for example {files[0]}.",
        )
    check_links(folder)
    return _examine_gguf(files[0])


def _examine_folder(folder: Path) -> Examination:
    config = read_config(folder)
    decoder = text_config(config)
    experts, active = experts_of(decoder)
    found = Examination(
        folder,
        architecture=architecture_of(config),
        model_type=read_text(config, "model_type"),
        kind=generic_kind_of(config),
        modalities=modalities_of(config),
        has_chat_template=_has_chat_template(folder),
        experts=experts,
        active_experts=active,
        dtype=read_text(config, "dtype", "torch_dtype"),
        gaps=find_gaps(folder),
        details=_folder_details(folder, config),
    )
    try:
        check_code(folder, config)
        found = replace(found, shape=shape_from_config(config))
        _refuse_quantization(folder, config)
        _refuse_kind(found)
    except UnsupportedModelError as error:
        found = found.refused(error)
    try:
        files = weight_files(folder)
        if files and all((folder / name).exists() for name in files):
            weights, own_output = read_safetensors_inventory(folder)
            found = replace(
                found,
                weights=weights,
                weight_format="safetensors",
                dtype=weights.dtype,
                shape=shape_from_config(config, own_output) if found.shape else None,
            )
    except UnsupportedModelError as error:
        found = found.refused(error)
    return found


def _examine_gguf(path: Path) -> Examination:
    header = read_gguf_header(path)
    name = header.text("general.architecture") or "unknown"
    family = GGUF_FAMILIES.get(name)
    weights = sum_headers(header.tensors, (path.name,))
    prefix = f"{name}."
    found = Examination(
        path,
        architecture=family.architecture if family else None,
        model_type=family.model_type if family else name,
        kind="causal-lm" if family else None,
        shape=shape_from_gguf(header),
        weights=weights,
        weight_format="gguf",
        dtype=weights.dtype,
        has_chat_template=header.text("tokenizer.chat_template") is not None,
        experts=header.integer(prefix + "expert_count") or None,
        active_experts=header.integer(prefix + "expert_used_count") or None,
        licence=header.text("general.license"),
        gaps=find_gaps(path),
        details=(
            f"GGUF in {weights.dtype}: expanded once to bfloat16 safetensors "
            f"({format_bytes(2 * weights.parameters)}) in the cache before its first load.",
        ),
    )
    if (header.integer("split.count") or 1) > 1:
        return found.refused(
            UnsupportedModelError(
                f"{path} is one of {header.integer('split.count')} parts of a split GGUF model.",
                hint="Join the parts with llama-gguf-split --merge, or use safetensors.",
            )
        )
    if family is None:
        return found.refused(
            UnsupportedModelError(
                f"{path} holds a {name!r} model; the GGUF architectures that can be converted are "
                f"{', '.join(sorted(GGUF_FAMILIES))}.",
                hint="Use a safetensors version of the model.",
            )
        )
    return found


def _refuse_kind(found: Examination) -> None:
    if found.kind == "causal-lm":
        return
    if found.kind is None:
        name = found.architecture or found.model_type or "A model without a type"
        raise UnsupportedModelError(
            f"{name} is not known to generate text; transformers-generic runs text generation "
            "from causal models.",
            hint="Choose a model whose architecture ends in ForCausalLM.",
        )
    raise UnsupportedModelError(unsupported_kind_text(found.kind))


def unsupported_kind_text(kind: GenericModelKind) -> str:
    """Why models of `kind` do not run yet."""
    return (
        "transformers-generic runs text generation from causal models; "
        f"{kind} is not built in this version."
    )


def _refuse_quantization(folder: Path, config: JSONObject) -> None:
    method = quantization_method(config)
    if method is not None and method not in _EXPANDABLE:
        raise UnsupportedModelError(
            f"{folder} is quantized with {method}, whose kernels are not part of this version; "
            f"plain and {' and '.join(_EXPANDABLE)} checkpoints run.",
            hint="Use the version of the model that is not quantized.",
        )


def quantization_method(config: JSONObject) -> str | None:
    """Name the method of a quantized checkpoint, or ``None`` for a plain one."""
    stated = config.get("quantization_config") or text_config(config).get("quantization_config")
    if not isinstance(stated, dict):
        return None
    return read_text(stated, "quant_method") or "an unnamed method"


def _folder_details(folder: Path, config: JSONObject) -> tuple[str, ...]:
    details: list[str] = []
    method = quantization_method(config)
    if method in _EXPANDABLE:
        details.append(
            f"Stored in {method}; transformers expands it to bfloat16 where the machine has no "
            "kernel for it."
        )
    elif method is not None:
        details.append(f"Quantized with {method}.")
    pickles = pickle_files(folder)
    if pickles and weight_files(folder):
        details.append(f"Pickle files beside the safetensors are ignored: {', '.join(pickles)}.")
    return tuple(details)


def _has_chat_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return False
    try:
        return bool(read_json_object(path, 100_000_000).get("chat_template"))
    except UnsupportedModelError:
        return False
