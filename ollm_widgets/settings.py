"""Every environment variable this package reads, in one place."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_DIR_VARIABLE = "OLLM_CACHE_DIR"
MODELS_DIR_VARIABLE = "OLLM_MODELS_DIR"
KV_LIMIT_VARIABLE = "OLLM_KV_LIMIT"
OBSERVE_VARIABLE = "OLLM_OBSERVE"
APPLICATION = "ollm-widgets"


def cache_dir() -> Path:
    """Folder for what can be made again: converted models, measurements, KV pages.

    ``OLLM_CACHE_DIR``, else the operating system's cache folder of this user.
    """
    return _folder_from(CACHE_DIR_VARIABLE) or _user_cache_path()


def default_models_dir() -> Path:
    """Folder that holds managed models when no `models_dir` is given.

    ``OLLM_MODELS_DIR``, else ``models`` in the operating system's data folder of this user.
    """
    return _folder_from(MODELS_DIR_VARIABLE) or _user_data_path() / "models"


def models_dir_was_chosen() -> bool:
    """Whether ``OLLM_MODELS_DIR`` says where managed models go."""
    return _folder_from(MODELS_DIR_VARIABLE) is not None


def kv_limit() -> str:
    """What persistent KV pages may take at most, as typed; empty for a share of their disk.

    ``OLLM_KV_LIMIT``, bytes or a size such as ``"20GiB"``.
    """
    return os.environ.get(KV_LIMIT_VARIABLE, "").strip()


def observes() -> bool:
    """Whether measured speeds are remembered, and correct the predictions of later plans.

    They are, unless ``OLLM_OBSERVE`` is ``0``, ``off``, ``no`` or ``false``.
    """
    said = os.environ.get(OBSERVE_VARIABLE, "").strip().lower()
    return said not in ("0", "off", "no", "false")


def _folder_from(variable: str) -> Path | None:
    value = os.environ.get(variable, "").strip()
    return Path(value).expanduser().absolute() if value else None


def _user_cache_path() -> Path:
    import platformdirs

    return platformdirs.user_cache_path(APPLICATION)


def _user_data_path() -> Path:
    import platformdirs

    return platformdirs.user_data_path(APPLICATION)
