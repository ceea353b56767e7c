"""What speaks against running models here, and the next step for each."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ollm_widgets.render.units import format_bytes, format_memory
from ollm_widgets.runtime.doctor.facts import DeviceFacts, Facts, FolderFacts
from ollm_widgets.runtime.doctor.surroundings import known_variables

_LITTLE_DISK_BYTES = 10 * 10**9
_LITTLE_RAM_BYTES = 2 << 30
_FULL_SWAP = 0.8
_HELD_BY_OTHERS = 0.5
# CUDA runs on any driver of its major version's first or a later series (NVIDIA, "CUDA
# Compatibility", minor version compatibility).
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, with numbers, and what to do; a note is only worth knowing."""

    text: str
    fix: str
    is_note: bool = False


def problems_of(facts: Facts) -> tuple[Problem, ...]:
    """Judge the facts; problems first, then notes."""
    found = [problem for check in _CHECKS for problem in check(facts)]
    return tuple(sorted(found, key=lambda problem: problem.is_note))


def _libraries(facts: Facts) -> Iterator[Problem]:
    unfit = [library for library in facts.libraries if library.fits is False]
    if not unfit:
        return
    wrong = [
        f"{library.name} is {library.installed}, {library.wanted} is needed"
        if library.installed
        else f"{library.name} is not installed"
        for library in unfit
    ]
    needed = " ".join(f'"{library.name}{library.wanted}"' for library in unfit)
    yield Problem(f"{'; '.join(wrong)}.", f"Run %pip install {needed}, then restart the kernel.")


def _torch(facts: Facts) -> Iterator[Problem]:
    torch, driver = facts.torch, facts.nvidia_driver
    if torch.error:
        yield Problem(
            f"torch cannot be imported: {torch.error}",
            "Install it again for this machine: https://pytorch.org/get-started/locally.",
        )
        return
    if not driver or torch.cuda_works or torch.rocm:
        return
    if not torch.cuda:
        yield Problem(
            f"This machine has an NVIDIA GPU (driver {driver}), and this torch is built for the "
            "CPU alone: nothing runs on the GPU.",
            "Install torch with CUDA: https://pytorch.org/get-started/locally.",
        )
        return
    oldest = _OLDEST_DRIVER.get(_first_number(torch.cuda))
    if oldest is not None and _first_number(driver) < oldest:
        yield Problem(
            f"The NVIDIA driver is {driver}, and this torch is built with CUDA {torch.cuda}, which "
            f"needs {oldest} or newer.",
            "Update the driver, or install torch for an older CUDA.",
        )
        return
    hidden = [each for each in facts.variables if each.name == "CUDA_VISIBLE_DEVICES"]
    yield Problem(
        f"There is an NVIDIA driver ({driver}), and torch with CUDA {torch.cuda} finds no GPU.",
        f"CUDA_VISIBLE_DEVICES is {hidden[0].value!r}: unset it and restart the kernel."
        if hidden
        else "See whether `nvidia-smi` lists one; a container must be started with its GPUs.",
    )


def _gpus(facts: Facts) -> Iterator[Problem]:
    for gpu in facts.gpus:
        device = gpu.device
        if not _has_kernels(gpu, facts.torch.architectures):
            capability = ".".join(map(str, gpu.capability or ()))
            yield Problem(
                f"{device.title} has compute capability {capability}, and this torch has kernels "
                f"for {', '.join(facts.torch.architectures)}.",
                "Install a torch that supports it: https://pytorch.org/get-started/locally.",
            )
        held_bytes = device.total_bytes - device.free_bytes
        if held_bytes > _HELD_BY_OTHERS * device.total_bytes:
            yield Problem(
                f"{format_memory(held_bytes)} of the {format_memory(device.total_bytes)} of "
                f"{device.title} ({device.name}) are in use.",
                "`nvidia-smi` lists who uses it; %ollm unload gives back what this kernel holds.",
                is_note=True,
            )
    if facts.gpus and facts.torch.cuda and not facts.triton:
        yield Problem(
            "Triton is not installed: packed layers and experts are decoded by slower means, and "
            "a token is not one captured step.",
            "Run %pip install triton, then restart the kernel.",
        )


def _memory(facts: Facts) -> Iterator[Problem]:
    host = facts.host
    if host is None:
        return
    total_bytes = host.limit_bytes or host.ram_total_bytes
    if host.ram_free_bytes < _LITTLE_RAM_BYTES:
        yield Problem(
            f"{format_memory(host.ram_free_bytes)} of {format_memory(total_bytes)} memory are "
            "free, and importing the libraries alone takes about half a gibibyte.",
            "Close other programs or kernels.",
        )
    if host.swap_total_bytes and host.swap_used_bytes > _FULL_SWAP * host.swap_total_bytes:
        yield Problem(
            f"{format_memory(host.swap_used_bytes)} of {format_memory(host.swap_total_bytes)} "
            "swap are in use: what is read from there is as slow as the disk.",
            "Close programs that hold memory.",
        )
    if host.limit_bytes is not None:
        yield Problem(
            f"This container may use {format_memory(host.limit_bytes)} of the machine's "
            f"{format_memory(host.ram_total_bytes)}, and files kept in memory count towards it: "
            "a model that is larger is read from disk again each time.",
            "Start the container with more memory if models stream from disk.",
            is_note=True,
        )


def _cores(facts: Facts) -> Iterator[Problem]:
    if facts.host is None:
        return
    usable, threads = facts.host.usable_cores, facts.torch.threads
    # A quota can be a fraction, and one thread more is not worth a word.
    if threads > usable + 1:
        wanted = max(round(usable), 1)
        yield Problem(
            f"torch computes with {threads} threads where this process may use {usable:g} of "
            f"{facts.host.cores} cores: they wait for each other.",
            f"Set OMP_NUM_THREADS={wanted} before the kernel starts, or call "
            f"torch.set_num_threads({wanted}).",
        )


def _folders(facts: Facts) -> Iterator[Problem]:
    low: dict[int, list[FolderFacts]] = {}
    for folder in facts.folders:
        if not folder.writable:
            yield Problem(
                f"The {folder.name} folder {folder.path} cannot be written.",
                f"Make it writable, or name another: {_variable_of(folder.name)}.",
            )
        if folder.free_bytes is not None and folder.free_bytes < _LITTLE_DISK_BYTES:
            low.setdefault(folder.free_bytes, []).append(folder)
    for free_bytes, together in low.items():
        names = " and ".join(f"{folder.name} ({folder.path})" for folder in together)
        yield Problem(
            f"{format_bytes(free_bytes)} are left on the disk of {names}; a model of 8 billion "
            "parameters takes 16 GB.",
            "Free some space (%ollm rm MODEL, %ollm kv rm), or name a folder on another disk: "
            f"{_variable_of(together[0].name)}.",
        )


def _front_end(facts: Facts) -> Iterator[Problem]:
    if facts.missing_bundles:
        yield Problem(
            f"The page code of {len(facts.missing_bundles)} widgets is missing: "
            f"{', '.join(facts.missing_bundles)}.",
            "Install ollm-widgets from a wheel, or run `make bundle` in its source tree.",
        )
    if facts.other_ollm:
        yield Problem(
            f"Another project's package ollm {facts.other_ollm} is installed: %load_ext ollm "
            "finds that one.",
            "Type %load_ext ollm_widgets.",
            is_note=True,
        )


def _hub(facts: Facts) -> Iterator[Problem]:
    if facts.hub_offline:
        yield Problem(
            "HF_HUB_OFFLINE is set: models can be searched and loaded on this machine only.",
            "Unset it and restart the kernel to reach the hub.",
            is_note=True,
        )
    elif facts.hub_token is False:
        yield Problem(
            "There is no login to the hub: gated models cannot be downloaded.",
            "Run `hf auth login` in a terminal, or set HF_TOKEN.",
            is_note=True,
        )


def _variables(facts: Facts) -> Iterator[Problem]:
    known = sorted(known_variables())
    for variable in facts.variables:
        if not variable.known:
            near = difflib.get_close_matches(variable.name, known, 1)
            yield Problem(
                f"{variable.name} is set, and nothing reads it.",
                f"Did you mean {near[0]}?" if near else f"These are read: {', '.join(known)}.",
                is_note=True,
            )


def _has_kernels(gpu: DeviceFacts, architectures: tuple[str, ...]) -> bool:
    """Whether a build runs on a GPU: kernels of its major version, or code for an older one.

    CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility".
    """
    if gpu.capability is None or not architectures:
        return True
    major, minor = gpu.capability
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        digits = "".join(character for character in number if character.isdigit())
        if len(digits) < 2 or kind not in ("sm", "compute"):
            return True  # of ROCm, or of a kind that came later
        built = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and built[0] == major and built[1] <= minor:
            return True
        if kind == "compute" and built <= (major, minor):
            return True
    return False


def _variable_of(folder: str) -> str:
    """Where a folder's place is set."""
    return {
        "models": "OLLM_MODELS_DIR",
        "hub cache": "HF_HUB_CACHE",
        "KV pages": "cache_dir of the config",
    }.get(folder, "OLLM_CACHE_DIR")


def _first_number(version: str) -> int:
    digits = version.partition(".")[0]
    return int(digits) if digits.isdigit() else 0


_CHECKS: tuple[Callable[[Facts], Iterator[Problem]], ...] = (
    _libraries,
    _torch,
    _gpus,
    _memory,
    _cores,
    _folders,
    _front_end,
    _hub,
    _variables,
)
