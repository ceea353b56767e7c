"""What a config asks of the cluster, in a form that is the same on all machines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollm_widgets.cluster.messages import Wanted
from ollm_widgets.errors import ModelReferenceError
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.render.units import parse_bytes

if TYPE_CHECKING:
    from ollm_widgets.planning.config import RuntimeConfig

# The device that means a node of the cluster; what follows a colon is its device there.
CLUSTER_DEVICE = "ray"

_BUDGETS = ("gpu_memory_budget", "cpu_memory_budget", "kv_cache_memory_budget")
_FOLDERS = ("models_dir", "adapter_dir", "cache_dir")
# Decides how files come, not what is loaded.
_NOT_IDENTITY = ("force_download",)


def goes_to_cluster(config: RuntimeConfig, *, auto: bool) -> bool:
    """Whether a config is for the cluster; one of device ``auto`` is where `auto` says so."""
    kind = str(config.device).partition(":")[0]
    return kind == CLUSTER_DEVICE or (auto and config.device == "auto")


def on_node(config: RuntimeConfig) -> RuntimeConfig:
    """Return the config as a node shall take it.

    A relative path says nothing on another machine, and becomes absolute; others stay as typed.
    """
    kind, _, device = str(config.device).partition(":")
    changes: dict[str, Any] = {}
    if kind == CLUSTER_DEVICE:
        changes["device"] = device or "auto"
    for name in _FOLDERS:
        folder = getattr(config, name)
        if folder is not None:
            changes[name] = _anywhere(Path(folder))
    return config.copy(model_reference=_reference_anywhere(config.model_reference), **changes)


def wanted_of(config: RuntimeConfig, name: str, copies: Mapping[str, int]) -> Wanted:
    """Say what a config wants.

    Parameters
    ----------
    name
        What a person calls its model.
    copies
        Least number of copies, by reference or name; see `ClusterOptions`.

    Returns
    -------
    Wanted
        Its key is equal for configs that ask for the same thing, on whatever machine.
    """
    there = on_node(config)
    least = copies.get(config.model_reference.strip(), copies.get(name, 0))
    return Wanted(_key(there), name, there.as_dict(), config.concurrency_group, least)


def _key(config: RuntimeConfig) -> str:
    values = config.as_dict()
    for name in _NOT_IDENTITY:
        del values[name]
    for name in _BUDGETS:
        if values[name] is not None:
            values[name] = parse_bytes(values[name])
    values["model_reference"] = values["model_reference"].strip()
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def _reference_anywhere(text: str) -> str:
    try:
        reference = ModelReference.parse(text)
    except ModelReferenceError:
        return text  # a host says what is wrong with it
    typed = text.strip().removeprefix("path:").strip()
    if reference.local_path is None or typed.startswith("~") or Path(typed).is_absolute():
        return text
    return f"path:{reference.local_path}"


def _anywhere(folder: Path) -> Path:
    return folder if str(folder).startswith("~") else folder.absolute()
