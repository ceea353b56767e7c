"""Versions of the libraries that this package uses, against the ranges that it states."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from ollm_widgets.runtime.doctor.facts import Library
from ollm_widgets.settings import APPLICATION

# Used where they are installed; nothing states a range for them.
_OPTIONAL = ("jupyterlab", "notebook", "triton")
# Brought by an extra, and what for.
_EXTRAS = {"ray": ("cluster", "models on other machines")}
# What a source tree that was never installed cannot state.
_UNSTATED = (
    "anywidget",
    "huggingface-hub",
    "ipykernel",
    "ipywidgets",
    "safetensors",
    "torch",
    "transformers",
)
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]*)['\"]")
_OPTIONS = re.compile(r"^\s*\[[^\]]*\]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def libraries() -> tuple[Library, ...]:
    """Find this package, what it requires, and what it uses where it is there."""
    found = [Library(APPLICATION, installed_version(APPLICATION))]
    found += [
        Library(name, installed, wanted, fits(installed, wanted))
        for name, wanted in requirements(_stated())
        for installed in (installed_version(name),)
    ]
    found += _of_extras()
    optional = ((name, installed_version(name)) for name in _OPTIONAL)
    return (*found, *(Library(name, installed) for name, installed in optional if installed))


def requirements(stated: Iterable[str], extra: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and versions of each requirement that holds without an extra, or of one.

    Parameters
    ----------
    stated
        As a distribution's metadata has them: ``torch<3,>=2.8``, ``build>=1; extra == 'dev'``.
    extra
        Whose requirements; empty for those that hold without any.
    """
    for line in stated:
        requirement, _, marker = line.partition(";")
        name = _NAME.match(requirement.strip())
        said = _EXTRA.search(marker)
        if name is None or (said[1] if said else "") != extra:
            continue
        wanted = _OPTIONS.sub("", requirement.strip()[name.end() :]).strip().strip("()")
        yield name[0], ",".join(sorted(filter(None, wanted.split(",")), key=_lower_end_first))


def fits(installed: str, wanted: str) -> bool | None:
    """Whether a version is one of those wanted; None where that cannot be said."""
    if not installed:
        return False
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
        from packaging.version import InvalidVersion, Version
    except ImportError:  # it comes with transformers, which may be what is missing
        return None
    try:
        return SpecifierSet(wanted).contains(Version(installed), prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return None


def installed_version(name: str) -> str:
    """Version of a distribution; empty where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _of_extras() -> Iterator[Library]:
    """Find what extras bring; it is no fault that it is not there."""
    stated = _stated()
    for name, (extra, purpose) in _EXTRAS.items():
        installed = installed_version(name)
        wanted = dict(requirements(stated, extra)).get(name, "")
        fit = fits(installed, wanted) if installed and wanted else None
        yield Library(name, installed, wanted, fit, extra, purpose)


def _stated() -> list[str]:
    try:
        return requires(APPLICATION) or []
    except PackageNotFoundError:
        return list(_UNSTATED)


def _lower_end_first(part: str) -> tuple[bool, str]:
    return not part.strip().startswith(">"), part
