"""The ids that configs, plans and backends share."""

from __future__ import annotations

from typing import Literal, TypeAlias

BackendId: TypeAlias = Literal["optimized-native", "transformers-generic"]
KVStrategyId: TypeAlias = Literal[
    "resident",
    "chunked",
    "paged",
    "streamed-segmented",
    "log-structured-journal",
    "sliding-window-ring-buffer",
    "quantized-cold-tier",
    "tiered-write-back",
]
SelectorProfile: TypeAlias = Literal["balanced", "latency", "capacity", "bounded-window"]
KVCacheLifecycle: TypeAlias = Literal["runtime-scoped", "persistent"]
KVAdaptationMode: TypeAlias = Literal["disabled", "observe-only", "automatic"]
KVCodecId: TypeAlias = Literal["int8", "int4"]
OffloadPolicy: TypeAlias = Literal["auto", "prefix", "suffix", "middle-band"]
DType: TypeAlias = Literal["float32", "bfloat16", "float16"]
DTypeChoice: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
DeviceKind: TypeAlias = Literal["cpu", "cuda", "mps"]
LayerTier: TypeAlias = Literal["accelerator", "host", "disk"]
Place: TypeAlias = Literal["gpu", "ram", "disk"]
SpecializationState: TypeAlias = Literal["not-planned", "planned", "applied", "fallback"]
KVRule: TypeAlias = Literal[
    "explicit", "bounded-window", "no-disk-cache", "latency", "capacity", "balanced"
]
