"""Reading one model's files into facts: config and tensor headers only, no code, no weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ollm_widgets.errors import UnsafeModelError, UnsupportedModelError
from ollm_widgets.models.catalog import GenericModelKind
from ollm_widgets.models.completeness import find_gaps, find_gaps_in, find_gguf_files
from ollm_widgets.models.config_file import JSONObject, read_text, text_config
from ollm_widgets.models.dimensions import shape_from_config
from ollm_widgets.models.facts import Examination
from ollm_widgets.models.files import MAX_TOKENIZER_CONFIG_BYTES, FolderFiles, ModelFiles
from ollm_widgets.models.gguf_examination import examine_gguf
from ollm_widgets.models.inventory import read_safetensors_inventory, weight_files
from ollm_widgets.models.kinds import (
    NATIVE_KINDS,
    architecture_of,
    experts_of,
    generic_kind_of,
    has_encoder,
    modalities_of,
)
from ollm_widgets.models.quantization import Quantization, read_quantization
from ollm_widgets.models.safety import check_code, check_links, check_weight_formats, pickle_files


def examine(path: Path) -> Examination:
    """Read a model folder, a GGUF file, or a safetensors file beside its config.

    Never raises for what the files hold: damage and danger become the `refusal`.
    """
    blank = Examination(path, str(path))
    try:
        return _examine(path)
    except UnsupportedModelError as error:
        return blank.refused(error)
    except OSError as error:
        return blank.refused(UnsupportedModelError(f"{path} cannot be read: {error}."))


def examine_elsewhere(files: ModelFiles) -> Examination:
    """Read a model whose files are not on this machine.

    Never raises for what the files hold, only for what keeps them from being read.
    """
    try:
        _require_model(files)
        return _examine_files(files, None, find_gaps_in(files))
    except UnsupportedModelError as error:
        return Examination(None, files.place).refused(error)


def _examine(path: Path) -> Examination:
    if path.is_file():
        return _examine_file(path)
    if not path.exists():
        kind = "file" if path.suffix.lower() in (".gguf", ".safetensors") else "folder"
        raise UnsupportedModelError(f"{path}: no such {kind}.", hint="Check the path.")
    if not path.is_dir():
        raise UnsafeModelError(f"{path} is neither a folder nor a regular file.")
    files = FolderFiles(path)
    gguf_files = find_gguf_files(path)
    if gguf_files and not weight_files(files):
        return _examine_gguf_folder(path, gguf_files)
    _require_model(files)
    check_links(path)
    return _examine_files(files, path, find_gaps(path))


def _require_model(files: ModelFiles) -> None:
    if files.has("adapter_config.json") and not weight_files(files):
        raise UnsupportedModelError(
            f"{files.place} holds a PEFT adapter, not a model.",
            hint="Load its base model and name this folder as adapter_dir.",
        )
    check_weight_formats(files)
    if not files.has("config.json"):
        raise UnsupportedModelError(
            f"{files.place} has no config.json: not a model folder.",
            hint="Name the folder that holds config.json and the weights.",
        )


def _examine_file(path: Path) -> Examination:
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return examine_gguf(path)
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
    return examine_gguf(files[0])


def _examine_files(files: ModelFiles, path: Path | None, gaps: tuple[str, ...]) -> Examination:
    config = files.read_json("config.json")
    quantization = read_quantization(config)
    experts, active = experts_of(text_config(config))
    found = Examination(
        path,
        files.place,
        architecture=architecture_of(config),
        model_type=read_text(config, "model_type"),
        kind=generic_kind_of(config),
        modalities=modalities_of(config),
        has_chat_template=_has_chat_template(files),
        experts=experts,
        active_experts=active,
        dtype=read_text(config, "dtype", "torch_dtype"),
        quantization=quantization,
        gaps=gaps,
        details=_details(files, quantization),
    )
    try:
        check_code(files, config)
        found = replace(found, shape=shape_from_config(config))
        _refuse_quantization(files, quantization)
        _refuse_kind(found, has_encoder(config))
    except UnsupportedModelError as error:
        found = found.refused(error)
    try:
        found = _with_weights(found, files, config)
    except UnsupportedModelError as error:
        found = found.refused(error)
    return found


def _with_weights(found: Examination, files: ModelFiles, config: JSONObject) -> Examination:
    names = weight_files(files)
    if not names or not all(files.has(name) for name in names):
        return found
    layers = found.shape.layers if found.shape else None
    weights, own_output = read_safetensors_inventory(files, found.quantization, layers)
    return replace(
        found,
        weights=weights,
        weight_format="safetensors",
        dtype=weights.dtype,
        shape=shape_from_config(config, own_output) if found.shape else None,
    )


def _refuse_kind(found: Examination, encodes: bool) -> None:
    if found.kind is None:
        name = found.architecture or found.model_type or "A model without a type"
        raise UnsupportedModelError(
            f"{name} is not known to generate text; text generation from causal models and from "
            "the language part of image-text models runs.",
            hint="Choose a model whose architecture ends in ForCausalLM.",
        )
    if found.kind not in NATIVE_KINDS:
        raise UnsupportedModelError(unsupported_kind_text(found.kind))
    if found.kind == "image-text-to-text" and encodes:
        raise UnsupportedModelError(
            "The language part of this image-text model is an encoder and a decoder; only "
            "decoders run in this version."
        )


def unsupported_kind_text(kind: GenericModelKind) -> str:
    """Why models of `kind` do not run yet."""
    return (
        "Text generation from causal models and from the language part of image-text models "
        f"runs; {kind} is not built in this version."
    )


def _refuse_quantization(files: ModelFiles, quantization: Quantization | None) -> None:
    if quantization is not None and not quantization.runs:
        raise UnsupportedModelError(
            f"{files.place} is {quantization.reason}",
            hint="Use the version of the model that is not quantized.",
        )


def _details(files: ModelFiles, quantization: Quantization | None) -> tuple[str, ...]:
    details: list[str] = []
    if quantization is not None and quantization.runs:
        details.append(
            f"Stored in {quantization.method}: optimized-native expands it to bfloat16 when it is "
            "loaded, transformers-generic where the machine has no kernel for it."
        )
    elif quantization is not None:
        details.append(f"Quantized with {quantization.title}.")
    pickles = pickle_files(files)
    if pickles and weight_files(files):
        details.append(f"Pickle files beside the safetensors are ignored: {', '.join(pickles)}.")
    return tuple(details)


def _has_chat_template(files: ModelFiles) -> bool:
    if any(files.has(name) for name in ("chat_template.jinja", "chat_template.json")):
        return True
    if not files.has("tokenizer_config.json"):
        return False
    try:
        tokenizer = files.read_json("tokenizer_config.json", MAX_TOKENIZER_CONFIG_BYTES)
    except UnsupportedModelError:
        return False
    return bool(tokenizer.get("chat_template"))
