"""What the doctor knows about this machine before judging it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ollm_widgets.planning.devices import Device


@dataclass(frozen=True, slots=True)
class Library:
    """A library that this package uses.

    Parameters
    ----------
    name
        Of the distribution.
    installed
        Its version; empty where it is not installed.
    wanted
        The versions that this package takes, ``>=2.8,<3``; empty where any will do.
    fits
        Whether it is one of them; None where that cannot be said.
    extra, purpose
        The extra of this package that brings it, and what for; empty for what is always needed.
    """

    name: str
    installed: str
    wanted: str = ""
    fits: bool | None = None
    extra: str = ""
    purpose: str = ""


@dataclass(frozen=True, slots=True)
class TorchFacts:
    """What this torch was built for, and how it runs here.

    Parameters
    ----------
    error
        Why it cannot be imported; empty where it can.
    cuda
        The CUDA version that it was built with, ``"12.8"``; empty for a build without.
    rocm
        Likewise of ROCm.
    cuda_works
        Whether it finds a GPU.
    architectures
        GPU architectures that it has kernels for: ``sm_90``, ``compute_90``.
    threads
        How many threads it computes with on the CPU.
    """

    error: str = ""
    cuda: str = ""
    rocm: str = ""
    cuda_works: bool = False
    architectures: tuple[str, ...] = ()
    threads: int = 0


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A device, and its compute capability where it is a CUDA GPU."""

    device: Device
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A folder that models, measurements or KV pages go to.

    Parameters
    ----------
    name, path
        What a person calls it, and where it is.
    exists, writable
        Whether it is there, and whether it (or what it would be made in) can be written.
    free_bytes
        What its disk has left; None where nobody can tell.
    size_bytes
        What the files in it take; None where that was not added up.
    """

    name: str
    path: Path
    exists: bool
    writable: bool
    free_bytes: int | None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class VariableFacts:
    """An environment variable that is set; a secret one's value is not here."""

    name: str
    value: str
    known: bool = True


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The host's memory and cores, and what this process may use of them.

    Parameters
    ----------
    ram_total_bytes, ram_free_bytes
        Of the machine, whatever a container allows.
    limit_bytes
        What a container allows; None without such a limit.
    swap_total_bytes, swap_used_bytes
        Zero where there is none.
    cores, usable_cores
        Of the machine, and what affinity and a container's quota leave of them.
    """

    ram_total_bytes: int
    ram_free_bytes: int
    limit_bytes: int | None = None
    swap_total_bytes: int = 0
    swap_used_bytes: int = 0
    cores: int = 1
    usable_cores: float = 1.0


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the doctor looks at.

    Parameters
    ----------
    python, platform
        Versions, as a person reads them.
    libraries
        Those of this package's requirements, the package itself first.
    torch, host, devices
        See there; the CPU is the first device. None and empty where a library is missing that
        this needs.
    nvidia_driver
        Version of the driver; empty where there is none.
    triton
        Whether it is installed.
    folders, variables
        Folders in use and environment variables that are set.
    missing_bundles
        Widgets whose page code is not installed.
    hub_token, hub_offline
        Whether a login to the hub is there (None where that cannot be said), and whether it was
        told to stay off the network.
    other_ollm
        Version of another project's package named ``ollm``; empty where there is none.
    """

    python: str
    platform: str
    libraries: tuple[Library, ...]
    torch: TorchFacts
    host: HostFacts | None
    devices: tuple[DeviceFacts, ...]
    nvidia_driver: str = ""
    triton: bool = False
    folders: tuple[FolderFacts, ...] = ()
    variables: tuple[VariableFacts, ...] = ()
    missing_bundles: tuple[str, ...] = ()
    hub_token: bool | None = None
    hub_offline: bool = False
    other_ollm: str = ""

    @property
    def gpus(self) -> tuple[DeviceFacts, ...]:
        """The CUDA devices."""
        return tuple(each for each in self.devices if each.device.kind == "cuda")
