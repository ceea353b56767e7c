"""What a person asks for: how to run a model."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.checks import (
    check_budget,
    check_choice,
    check_count,
    check_device,
    check_flag,
    check_folder,
    check_name,
    check_reference,
)
from ollm_widgets.planning.generation import GenerationConfig
from ollm_widgets.planning.ids import (
    BackendId,
    DTypeChoice,
    KVAdaptationMode,
    KVCacheLifecycle,
    KVCodecId,
    KVStrategyId,
    OffloadPolicy,
    SelectorProfile,
)
from ollm_widgets.planning.plain import PlainFields
from ollm_widgets.render.units import parse_bytes

__all__ = [
    "BackendId",
    "DTypeChoice",
    "GenerationConfig",
    "KVAdaptationMode",
    "KVCacheLifecycle",
    "KVCodecId",
    "KVStrategyId",
    "OffloadPolicy",
    "RuntimeConfig",
    "SelectorProfile",
]

_FLAGS = ("multimodal", "use_specialization", "use_cache", "force_download")
_PATHS = ("models_dir", "adapter_dir", "cache_dir")
_BUDGETS = ("gpu_memory_budget", "cpu_memory_budget", "kv_cache_memory_budget")
# Decide how files come, not what is loaded.
_NOT_IDENTITY = frozenset({"force_download"})


@dataclass(slots=True)
class RuntimeConfig(PlainFields):
    """How to run a model; None and ``"auto"`` leave a choice to the planner.

    Parameters
    ----------
    model_reference
        Alias, hub id, folder or GGUF file; a `Path` is always a path.
    models_dir
        Managed models folder; None is the default one.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. Where one GPU cannot hold the
        model, ``auto`` and ``cuda`` take several; ``cuda:N`` is that one alone. ``ray`` is a
        node of a cluster, ``ray:cuda`` one with a GPU, ``ray:cpu`` the CPU of one.
    dtype
        ``auto``, ``float32``, ``bfloat16`` or ``float16``.
    backend
        A backend id.
    adapter_dir
        Folder of a PEFT adapter to lay over the model.
    multimodal
        Load the image or audio parts of the model too.
    use_specialization
        Let optimized-native passes apply where they match.
    cache_dir
        Folder for KV pages on disk.
    use_cache
        Keep keys and values between tokens; without it every token costs a whole pass.
    kv_cache_strategy, strategy_selector_profile
        A strategy, or the aim by which one is chosen.
    kv_cache_lifecycle
        Whether the KV cache outlives the runtime.
    kv_cache_adaptation_mode
        Whether the KV cache may be retuned while it runs.
    kv_cache_window_tokens, kv_cache_sink_tokens
        Tokens the bounded window keeps, and how many of the first ones it keeps beside them.
    kv_cache_codec
        How cold pages of a quantized strategy are kept: ``int8`` or ``int4``; None is ``int8``.
    kv_cache_memory_budget
        Bytes, or a size, that the KV cache may take on the device that computes; what is beyond
        goes to slower tiers. None is what the model leaves.
    dense_projection_chunk_rows
        Rows of a dense projection that are computed at once.
    offload_gpu_layers, offload_cpu_layers
        Decoder layers that stay on the accelerator (on all of them together, where a model
        takes several), and in host memory; the rest is read from disk each pass.
    offload_cpu_policy
        Which layers are the ones in host memory.
    gpu_memory_budget, cpu_memory_budget
        Bytes, or a size such as ``"6GiB"``; None is what is free less a margin. The first is
        for each GPU.
    context_tokens
        Tokens to plan for; None is the model's context, at most 4,096.
    concurrency_group
        A name; of the runtimes that share it only one is in memory at a time. None for no group.
    force_download
        Download again what is here already.
    """

    model_reference: str
    models_dir: Path | str | None = None
    device: str = "auto"
    dtype: DTypeChoice = "auto"
    backend: BackendId | None = None
    adapter_dir: Path | str | None = None
    multimodal: bool = False
    use_specialization: bool = True
    cache_dir: Path | str | None = None
    use_cache: bool = True
    kv_cache_strategy: KVStrategyId | None = None
    strategy_selector_profile: SelectorProfile = "balanced"
    kv_cache_lifecycle: KVCacheLifecycle = "runtime-scoped"
    kv_cache_adaptation_mode: KVAdaptationMode = "disabled"
    kv_cache_window_tokens: int | None = None
    kv_cache_sink_tokens: int = 0
    kv_cache_codec: KVCodecId | None = None
    kv_cache_memory_budget: int | str | None = None
    dense_projection_chunk_rows: int | None = None
    offload_gpu_layers: int | None = None
    offload_cpu_layers: int | None = None
    offload_cpu_policy: OffloadPolicy = "auto"
    gpu_memory_budget: int | str | None = None
    cpu_memory_budget: int | str | None = None
    context_tokens: int | None = None
    concurrency_group: str | None = None
    force_download: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.model_reference, os.PathLike):
            self.model_reference = f"path:{os.fspath(self.model_reference)}"
        for name in _PATHS:
            # One spelling of a folder, so that what was written as text is equal when read back.
            if isinstance(folder := getattr(self, name), str) and folder.strip():
                setattr(self, name, Path(folder))

    def validate(self) -> None:
        """Check every field on its own and against the others; no model is looked at.

        Raises
        ------
        ConfigError
            For the first value that cannot work; it names the field and the fix.
        """
        self._validate_places()
        self._validate_choices()
        self._validate_counts()
        self._validate_combinations()

    def copy(self, **changes: Any) -> RuntimeConfig:
        """Return a copy in which `changes` apply; an unknown name is a TypeError."""
        return replace(self, **changes)

    def identity(self) -> Hashable:
        """Return a key that is equal for configs that load the same runtime.

        Spellings are settled first: ``"6GiB"`` equals its number of bytes, a relative folder
        its absolute path.
        """
        return tuple(
            (field.name, _settled(field.name, getattr(self, field.name)))
            for field in fields(self)
            if field.name not in _NOT_IDENTITY
        )

    def _validate_places(self) -> None:
        check_reference("model_reference", self.model_reference)
        for name in _PATHS:
            check_folder(name, getattr(self, name))
        check_device("device", self.device)

    def _validate_choices(self) -> None:
        check_choice("dtype", self.dtype, DTypeChoice)
        check_choice("backend", self.backend, BackendId, optional=True)
        check_choice("kv_cache_strategy", self.kv_cache_strategy, KVStrategyId, optional=True)
        check_choice("strategy_selector_profile", self.strategy_selector_profile, SelectorProfile)
        check_choice("kv_cache_lifecycle", self.kv_cache_lifecycle, KVCacheLifecycle)
        check_choice("kv_cache_adaptation_mode", self.kv_cache_adaptation_mode, KVAdaptationMode)
        check_choice("kv_cache_codec", self.kv_cache_codec, KVCodecId, optional=True)
        check_choice("offload_cpu_policy", self.offload_cpu_policy, OffloadPolicy)
        check_name("concurrency_group", self.concurrency_group)
        for name in _FLAGS:
            check_flag(name, getattr(self, name))

    def _validate_counts(self) -> None:
        check_count("kv_cache_window_tokens", self.kv_cache_window_tokens, least=1, unit="tokens")
        check_count(
            "kv_cache_sink_tokens",
            self.kv_cache_sink_tokens,
            least=0,
            unit="tokens",
            optional=False,
        )
        check_count(
            "dense_projection_chunk_rows", self.dense_projection_chunk_rows, least=1, unit="rows"
        )
        check_count("offload_gpu_layers", self.offload_gpu_layers, least=0, unit="layers")
        check_count("offload_cpu_layers", self.offload_cpu_layers, least=0, unit="layers")
        check_count("context_tokens", self.context_tokens, least=1, unit="tokens")
        for name in _BUDGETS:
            check_budget(name, getattr(self, name))

    def _validate_combinations(self) -> None:
        if self.kv_cache_strategy == "resident" and self.kv_cache_lifecycle == "persistent":
            raise ConfigError(
                "kv_cache_lifecycle",
                "a resident KV cache lives in memory only and cannot be persistent.",
                hint="Use runtime-scoped, or a strategy that keeps pages on disk such as paged.",
            )
        bounded = self.kv_cache_strategy in (None, "sliding-window-ring-buffer")
        if self.kv_cache_window_tokens is not None and not bounded:
            raise ConfigError(
                "kv_cache_window_tokens",
                f"{self.kv_cache_strategy} keeps the full history and has no window of "
                f"{self.kv_cache_window_tokens} tokens.",
                hint="Leave the window empty, or use sliding-window-ring-buffer.",
            )
        if self.kv_cache_sink_tokens and not bounded:
            raise ConfigError(
                "kv_cache_sink_tokens",
                f"{self.kv_cache_strategy} keeps the full history, its first "
                f"{self.kv_cache_sink_tokens} tokens included.",
                hint="Leave the sinks at 0, or use sliding-window-ring-buffer.",
            )
        quantized = self.kv_cache_strategy in (None, "quantized-cold-tier")
        if self.kv_cache_codec is not None and not quantized:
            raise ConfigError(
                "kv_cache_codec",
                f"{self.kv_cache_strategy} keeps full precision and has no use for "
                f"{self.kv_cache_codec}.",
                hint="Leave the codec empty, or use quantized-cold-tier.",
            )
        if self.backend == "optimized-native" and not self.use_specialization:
            raise ConfigError(
                "use_specialization",
                "optimized-native is made of specialization passes and cannot run without them.",
                hint="Set use_specialization=True, or use transformers-generic.",
            )


def _settled(name: str, value: Hashable) -> Hashable:
    if value is not None and name in _PATHS:
        try:
            return str(Path(str(value)).expanduser().absolute())
        except RuntimeError:
            return str(value)  # the home of somebody who is not known here
    if name in _BUDGETS and isinstance(value, int | str):
        try:
            return parse_bytes(value)
        except ValueError:
            return value
    if name == "model_reference" and isinstance(value, str):
        return value.strip()
    return value
