"""What a PEFT adapter is and whether it fits a model; its config and tensor headers only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ollm_widgets.errors import UnsafeModelError, UnsupportedModelError
from ollm_widgets.models.config_file import JSONObject, read_int, read_json_object, read_text
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.safety import PICKLE_SUFFIXES, check_links
from ollm_widgets.models.tensors import TensorHeader, read_safetensors_header
from ollm_widgets.render.units import format_bytes, format_count

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d+)\.")
_DOWN = re.compile(r"\.lora_A(?:\.\w+)?\.weight$")
_MAX_MODULES = 10_000


@dataclass(frozen=True, slots=True)
class AdapterProfile:
    """A PEFT adapter, as its files describe it.

    Parameters
    ----------
    path
        Its folder.
    method
        ``peft_type`` in lower case: ``lora``, ``ia3``, ...
    base_model
        The model it was trained on, as its config names it; ``None`` where it does not.
    task
        ``CAUSAL_LM`` and the like.
    rank, alpha
        Of a LoRA.
    target_modules
        Names or one pattern of the modules that it changes, sorted.
    layers
        Decoder layers that it reaches: one more than the highest it names.
    hidden_size
        Width of the model's residual stream, where a query projection tells.
    parameters, bytes_on_disk, dtype
        From the tensor headers.
    """

    path: Path
    method: str
    base_model: str | None
    task: str | None
    rank: int | None
    alpha: int | None
    target_modules: tuple[str, ...]
    layers: int
    hidden_size: int | None
    parameters: int
    bytes_on_disk: int
    dtype: str

    def summary(self) -> str:
        """Say in one line what the adapter is."""
        rank = f" of rank {self.rank}" if self.rank else ""
        base = f" for {self.base_model}" if self.base_model else ""
        modules = f" on {', '.join(self.target_modules[:8])}" if self.target_modules else ""
        return (
            f"{self.path.name}: {self.method}{rank}{base}{modules} "
            f"({format_count(self.parameters)} parameters, {format_bytes(self.bytes_on_disk)})"
        )

    def mismatch_with(self, base: ResolvedModel) -> str | None:
        """Why the adapter cannot be laid over `base`; ``None`` when nothing speaks against it.

        A model of another name is no mismatch by itself, since copies and fine-tunes of the base
        are named differently; its layers and widths decide.
        """
        if self.task == "SEQ_2_SEQ_LM" and base.generic_model_kind == "causal-lm":
            return f"{self.path} is an adapter of a sequence-to-sequence model."
        shape = base.shape
        if shape is None:
            return None
        origin = f"; it was made for {self.base_model}" if self.base_model else ""
        if self.layers > shape.layers:
            return (
                f"{self.path} reaches layer {self.layers}, and {base.display_name} has "
                f"{shape.layers}{origin}."
            )
        if self.hidden_size is not None and self.hidden_size != shape.hidden_size:
            return (
                f"{self.path} is for a model of width {self.hidden_size}, and "
                f"{base.display_name} has {shape.hidden_size}{origin}."
            )
        return None


def inspect_adapter(path: Path) -> AdapterProfile:
    """Read what a PEFT adapter is; no weights, no code, no network.

    Parameters
    ----------
    path
        Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises
    ------
    UnsupportedModelError
        When the folder is missing or holds no adapter.
    UnsafeModelError
        When its weights are pickle, it brings code, or a link leaves the folder.
    MalformedModelError
        When a file is damaged.
    """
    try:
        return _inspect(path)
    except OSError as error:
        raise UnsupportedModelError(f"{path} cannot be read: {error}.") from error


def _inspect(path: Path) -> AdapterProfile:
    if not path.is_dir():
        raise UnsupportedModelError(f"{path}: no such folder.", hint="Check the path.")
    if not (path / CONFIG_NAME).exists():
        raise UnsupportedModelError(
            f"{path} has no {CONFIG_NAME}: not a PEFT adapter.",
            hint="Name the folder that PEFT's save_pretrained wrote.",
        )
    check_links(path)
    config = read_json_object(path / CONFIG_NAME)
    if config.get("auto_mapping"):
        raise UnsafeModelError(
            f"{path / CONFIG_NAME} names classes of its own (auto_mapping); they are never loaded.",
            hint="Save the adapter from a model that transformers supports by itself.",
        )
    headers = _headers(path)
    dtypes = sorted({header.dtype for header in headers})
    return AdapterProfile(
        path=path,
        method=(read_text(config, "peft_type") or "unknown").lower(),
        base_model=read_text(config, "base_model_name_or_path"),
        task=read_text(config, "task_type"),
        rank=read_int(config, "r"),
        alpha=read_int(config, "lora_alpha"),
        target_modules=_target_modules(config),
        layers=1 + max((_layer_of(header) for header in headers), default=-1),
        hidden_size=_hidden_size(headers),
        parameters=sum(header.elements for header in headers),
        bytes_on_disk=sum(header.size_bytes for header in headers),
        dtype=dtypes[0] if len(dtypes) == 1 else "mixed" if dtypes else "unknown",
    )


def _headers(path: Path) -> tuple[TensorHeader, ...]:
    if (path / WEIGHTS_NAME).exists():
        return read_safetensors_header(path / WEIGHTS_NAME)
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise UnsafeModelError(
            f"{path} holds the adapter's weights as pickle only ({', '.join(pickles[:3])}); "
            "reading pickle can run any code.",
            hint="Save it again with safe_serialization=True where you trust its source.",
        )
    raise UnsupportedModelError(
        f"{path} has no {WEIGHTS_NAME}.", hint="Get the adapter again from its source."
    )


def _target_modules(config: JSONObject) -> tuple[str, ...]:
    stated = config.get("target_modules")
    if isinstance(stated, str):
        return (stated,)
    if not isinstance(stated, list):
        return ()
    return tuple(sorted({name for name in stated[:_MAX_MODULES] if isinstance(name, str)}))


def _layer_of(header: TensorHeader) -> int:
    match = _LAYER.search(header.name)
    return int(match.group(1)[:9]) if match else -1


def _hidden_size(headers: tuple[TensorHeader, ...]) -> int | None:
    for header in headers:
        if ".q_proj." in header.name and _DOWN.search(header.name) and len(header.shape) == 2:
            return header.shape[1]
    return None
