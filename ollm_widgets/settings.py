"""Every environment variable this package reads, in one place."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict, cast

from ollm_widgets.errors import ConfigError

CACHE_DIR_VARIABLE = "OLLM_CACHE_DIR"
MODELS_DIR_VARIABLE = "OLLM_MODELS_DIR"
KV_LIMIT_VARIABLE = "OLLM_KV_LIMIT"
OBSERVE_VARIABLE = "OLLM_OBSERVE"
MAX_LOADED_VARIABLE = "OLLM_MAX_LOADED"
IDLE_TIMEOUT_VARIABLE = "OLLM_IDLE_TIMEOUT"
BUSY_TIMEOUT_VARIABLE = "OLLM_BUSY_TIMEOUT"
BUSY_WAIT_VARIABLE = "OLLM_BUSY_WAIT"
MEMORY_PRESSURE_VARIABLE = "OLLM_MEMORY_PRESSURE"
DEMOTE_VARIABLE = "OLLM_DEMOTE"
CLUSTER_VARIABLE = "OLLM_CLUSTER"
APPLICATION = "ollm-widgets"

_NO = ("0", "off", "no", "false")
_YES = ("1", "on", "yes", "true")
_NEVER = ("off", "never")
_NO_LIMIT = ("none", "off")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,6})?)\s*(s|min|m|h|)", re.IGNORECASE)
_TIME_UNITS_S = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
_CLUSTERS = ("auto", "local")
_ADDRESS = re.compile(r"[A-Za-z0-9._\-\[\]:]+:[0-9]{1,5}")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{0,6})?|\.[0-9]{1,6})\s*(%?)")


class ResidencySettings(TypedDict, total=False):
    """What the environment says of runtimes in memory; what it leaves open has no key.

    The names and units are those of the manager's options.
    """

    max_loaded: int | None
    idle_timeout_s: float
    busy_timeout_s: float
    busy_wait_s: float
    pressure: float
    demotes: bool


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


def cluster_setting(text: str | None = None) -> str:
    """Which Ray cluster runs models of the device ``ray``; empty where nobody says.

    ``OLLM_CLUSTER``: ``auto`` for the one that this machine belongs to, ``host:port`` of its
    head, or ``local`` for a Ray of this machine alone.

    Parameters
    ----------
    text
        What a person types in its place; None reads the environment.

    Raises
    ------
    ConfigError
        When it names no cluster.
    """
    name = CLUSTER_VARIABLE if text is None else "cluster"
    said = (os.environ.get(CLUSTER_VARIABLE, "") if text is None else text).strip()
    if said and said.lower() not in _CLUSTERS and _ADDRESS.fullmatch(said) is None:
        raise ConfigError(
            name,
            f"{said!r} names no Ray cluster.",
            hint="Write auto, local, or the address of its head, such as 10.0.0.1:6379.",
        )
    return said.lower() if said.lower() in _CLUSTERS else said


def observes() -> bool:
    """Whether measured speeds are remembered, and correct the predictions of later plans.

    They are, unless ``OLLM_OBSERVE`` is ``0``, ``off``, ``no`` or ``false``.
    """
    said = os.environ.get(OBSERVE_VARIABLE, "").strip().lower()
    return said not in _NO


def residency_settings(environment: Mapping[str, str] | None = None) -> ResidencySettings:
    """Limits and times of runtimes in memory that are set in the environment.

    ``OLLM_MAX_LOADED``, ``OLLM_IDLE_TIMEOUT``, ``OLLM_BUSY_TIMEOUT``, ``OLLM_BUSY_WAIT``,
    ``OLLM_MEMORY_PRESSURE`` and ``OLLM_DEMOTE``; an empty one is not set.

    Parameters
    ----------
    environment
        Where to look; None is the process's own.

    Raises
    ------
    ConfigError
        With the variable's name and what is accepted, when one cannot be understood.
    """
    environment = os.environ if environment is None else environment
    found: dict[str, object] = {}
    for variable, (option, parse) in _RESIDENCY.items():
        text = environment.get(variable, "").strip()
        if text:
            found[option] = _parsed(variable, text, parse)
    return cast("ResidencySettings", found)


def residency_setting(option: str, text: str) -> ResidencySettings:
    """Read one of these limits or times as a person types it: ``"idle_timeout", "15m"``.

    Parameters
    ----------
    option
        ``max_loaded``, ``idle_timeout``, ``busy_timeout``, ``busy_wait``, ``pressure``
        (or ``memory_pressure``) or ``demotes`` (or ``demote``).

    Raises
    ------
    ConfigError
        When there is no such option, or the text cannot be understood.
    """
    for variable, (name, parse) in _RESIDENCY.items():
        typed = variable.removeprefix("OLLM_").lower()
        if option.strip().lower().replace("-", "_") in (typed, name, name.removesuffix("_s")):
            return cast("ResidencySettings", {name: _parsed(option, text.strip(), parse)})
    known = ", ".join(name.removesuffix("_s") for name, _ in _RESIDENCY.values())
    raise ConfigError(option, "is no option of runtimes in memory.", hint=f"There are {known}.")


def _parsed(name: str, text: str, parse: Callable[[str], object]) -> object:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(name, f"{text!r} {error}") from None


def _limit(text: str) -> int | None:
    if text.lower() in _NO_LIMIT:
        return None
    if _COUNT.fullmatch(text) is None:
        raise ValueError('is no limit; write a whole number from 1, or "none".')
    return int(text)


def _seconds(text: str) -> float:
    if text.lower() in _NEVER:
        return 0.0
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError('is no time; write seconds, or a number with s, m or h ("15m"); 0 never.')
    return float(match[1]) * _TIME_UNITS_S[match[2].lower()]


def _wait(text: str) -> float:
    # Not to wait at all is a choice here, while "never" would say the opposite.
    if text.lower() in _NEVER:
        raise ValueError('is no time to wait; write seconds, or a number with s, m or h ("1m").')
    return _seconds(text)


def _share(text: str) -> float:
    if text.lower() in _NEVER:
        return 0.0
    match = _SHARE.fullmatch(text)
    share = math.inf if match is None else float(match[1]) / (100 if match[2] else 1)
    if share > 1:
        raise ValueError('is no share; write a number from 0 to 1, or "95%"; 0 never.')
    return share


def _switch(text: str) -> bool:
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise ValueError("is neither on nor off; write 1 or 0.")


_RESIDENCY: Mapping[str, tuple[str, Callable[[str], object]]] = {
    MAX_LOADED_VARIABLE: ("max_loaded", _limit),
    IDLE_TIMEOUT_VARIABLE: ("idle_timeout_s", _seconds),
    BUSY_TIMEOUT_VARIABLE: ("busy_timeout_s", _seconds),
    BUSY_WAIT_VARIABLE: ("busy_wait_s", _wait),
    MEMORY_PRESSURE_VARIABLE: ("pressure", _share),
    DEMOTE_VARIABLE: ("demotes", _switch),
}


def _folder_from(variable: str) -> Path | None:
    value = os.environ.get(variable, "").strip()
    return Path(value).expanduser().absolute() if value else None


def _user_cache_path() -> Path:
    import platformdirs

    return platformdirs.user_cache_path(APPLICATION)


def _user_data_path() -> Path:
    import platformdirs

    return platformdirs.user_data_path(APPLICATION)
