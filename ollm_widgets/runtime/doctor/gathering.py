"""Looking at this machine: everything the doctor knows is gathered here, nothing is judged."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from importlib.resources import files as resources_of
from importlib.util import find_spec
from typing import TypeVar

from ollm_widgets.planning.devices import Device, Machine, probe_machine
from ollm_widgets.planning.profile.identity import nvidia_driver
from ollm_widgets.runtime.doctor.facts import DeviceFacts, Facts, TorchFacts
from ollm_widgets.runtime.doctor.host import host_facts
from ollm_widgets.runtime.doctor.libraries import installed_version, libraries
from ollm_widgets.runtime.doctor.surroundings import folders, variables

Found = TypeVar("Found")

# What a module of `widgets/` says that has page code of its own.
_IS_WIDGET = "_esm = "


def gather(machine: Machine | None = None) -> Facts:
    """Look at libraries, devices, memory, folders and variables; asks no network.

    Imports torch, which takes a second or two the first time.

    Parameters
    ----------
    machine
        What there is to run on; looked at now when it is not given.
    """
    torch = torch_facts()
    offline, token = _hub()
    return Facts(
        python=f"{platform.python_version()} at {sys.executable}",
        platform=platform.platform(),
        libraries=libraries(),
        torch=torch,
        host=_unless_missing(host_facts, None),
        devices=_unless_missing(lambda: _devices(machine), ()),
        nvidia_driver=nvidia_driver(),
        triton=find_spec("triton") is not None,
        folders=_unless_missing(folders, ()),
        variables=variables(),
        missing_bundles=missing_bundles(),
        hub_token=token,
        hub_offline=offline,
        other_ollm=_other_ollm(),
    )


def _unless_missing(look: Callable[[], Found], otherwise: Found) -> Found:
    """What was found; a library that this needs may be what the report has to say is missing."""
    try:
        return look()
    except ImportError:
        return otherwise


def _devices(machine: Machine | None) -> tuple[DeviceFacts, ...]:
    machine = machine or probe_machine()
    return tuple(
        DeviceFacts(device, _capability(device)) for device in (machine.cpu, *machine.accelerators)
    )


def torch_facts() -> TorchFacts:
    """What torch says of itself; a broken installation says why."""
    try:
        import torch
    except Exception as error:  # a library that it links to may be missing or of another version
        return TorchFacts(error=f"{type(error).__name__}: {error}"[:300])
    cuda_works = torch.cuda.is_available()
    return TorchFacts(
        cuda=torch.version.cuda or "",
        rocm=torch.version.hip or "",
        cuda_works=cuda_works,
        architectures=tuple(torch.cuda.get_arch_list()) if cuda_works else (),
        threads=torch.get_num_threads(),
    )


def missing_bundles() -> tuple[str, ...]:
    """Widgets whose page code is not installed."""
    package = resources_of("ollm_widgets")
    widgets = (
        module.name.removesuffix(".py").replace("_", "-")
        for module in package.joinpath("widgets").iterdir()
        if module.name.endswith(".py") and _IS_WIDGET in module.read_text(encoding="utf-8")
    )
    static = package.joinpath("static")
    return tuple(sorted(name for name in widgets if not static.joinpath(f"{name}.js").is_file()))


def _capability(device: Device) -> tuple[int, int] | None:
    if device.kind != "cuda":
        return None
    import torch

    major, minor = torch.cuda.get_device_capability(device.name)
    return int(major), int(minor)


def _hub() -> tuple[bool, bool | None]:
    """Whether the hub is to be left alone, and whether there is a login to it; asks nobody."""
    try:
        from huggingface_hub import constants, get_token
    except ImportError:
        return False, None
    return bool(constants.HF_HUB_OFFLINE), bool(get_token())


def _other_ollm() -> str:
    """Version of the package ``ollm``, where it brings a folder that hides our module."""
    try:
        listed = files("ollm") or []
    except PackageNotFoundError:
        return ""
    hides = any(path.parts[:1] == ("ollm",) for path in listed)
    return installed_version("ollm") if hides else ""
