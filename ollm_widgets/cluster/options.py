"""What a cluster of hosts is to be like; plain values, checked before anything is started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ollm_widgets.errors import ConfigError
from ollm_widgets.runtime.residency.options import ResidencyOptions

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.IGNORECASE)
_RESIDENCY = frozenset(each.name for each in fields(ResidencyOptions))
_RAY_CLIENT = "ray://"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Where the cluster is, and what its hosts are like.

    What hosts are like is settled by who starts them; who comes later uses them as they are.

    Parameters
    ----------
    address
        ``auto`` or ``host:port`` of a Ray cluster of which this machine is a node; None is a Ray
        of this machine alone, which is started on loopback and ends with this process.
    name
        What the hosts are known by on the cluster; another name has hosts of its own.
    hosts
        How many; ``(least, most)`` lets Serve start and end them by need; None is one a node,
        also for nodes that come later.
    hosts_per_node
        The most hosts of one node.
    gpus_per_host
        What is reserved for each host, which then sees no other GPU; None reserves nothing, and
        a host sees all GPUs of its node.
    residency
        Limits and times of the runtimes of each host, see `ResidencyOptions`:
        ``{"max_loaded": 2}``.
    copies
        On how many hosts a model shall be at least, by its reference; those not named may leave
        altogether when room is needed, until they are asked for again.
    busy_wait_s
        How long a request waits for a place while all are taken.
    """

    address: str | None = None
    name: str = "ollm"
    hosts: int | tuple[int, int] | None = None
    hosts_per_node: int = 1
    gpus_per_host: float | None = None
    residency: Mapping[str, Any] = field(default_factory=dict)
    copies: Mapping[str, int] = field(default_factory=dict)
    busy_wait_s: float = 60.0

    def __post_init__(self) -> None:
        self._check_place()
        self._check_hosts()
        unknown = sorted(set(self.residency) - _RESIDENCY)
        if unknown:
            known = ", ".join(sorted(_RESIDENCY))
            raise ConfigError(
                "residency", f"{unknown[0]!r} is no option of hosts.", hint=f"There are {known}."
            )
        ResidencyOptions(**self.residency)
        for reference, count in self.copies.items():
            if not _is_count(count, 1):
                raise ConfigError(
                    "copies", f"of {reference} must be a whole number from 1, got {count!r}."
                )
        if not _is_number(self.busy_wait_s) or not 0 <= self.busy_wait_s < float("inf"):
            raise ConfigError("busy_wait_s", f"must be 0 or more seconds, got {self.busy_wait_s}.")

    @property
    def is_local(self) -> bool:
        """Whether the cluster is a Ray of this machine that this process starts and ends."""
        return self.address is None

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Fewest and most hosts; None where they follow the nodes."""
        return (self.hosts, self.hosts) if isinstance(self.hosts, int) else self.hosts

    def _check_place(self) -> None:
        if self.address is not None and not _is_text(self.address):
            raise ConfigError(
                "address",
                f"must be a text, got {self.address!r}.",
                hint='Write "auto", or host:port.',
            )
        if self.address is not None and self.address.startswith(_RAY_CLIENT):
            raise ConfigError(
                "address",
                f"{self.address} names Ray Client, through which answers cannot be streamed.",
                hint='Run the notebook on a node of the cluster, and write "auto" or host:port.',
            )
        if not _is_text(self.name) or _NAME.fullmatch(self.name) is None:
            raise ConfigError(
                "name", f"must be letters, digits, - and _, at most 63, got {self.name!r}."
            )

    def _check_hosts(self) -> None:
        if self.bounds is not None and not _are_bounds(self.bounds):
            raise ConfigError(
                "hosts",
                f"must be a whole number from 1, or the fewest and the most, got {self.hosts!r}.",
                hint="hosts=(0, 4) starts the first one when it is needed.",
            )
        if not _is_count(self.hosts_per_node, 1):
            raise ConfigError(
                "hosts_per_node", f"must be a whole number from 1, got {self.hosts_per_node!r}."
            )
        gpus = self.gpus_per_host
        if gpus is not None and (not _is_number(gpus) or not 0 <= gpus < float("inf")):
            raise ConfigError("gpus_per_host", f"must be 0 or more GPUs, got {gpus!r}.")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_bounds(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    least, most = value
    return _is_count(least, 0) and _is_count(most, 1) and least <= most


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
