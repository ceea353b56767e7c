"""What notebooks, the registry and hosts say to each other: plain records on Ray's own transport.

A *host* is a replica of a Serve deployment on some node, with a `RuntimeManager` of its own. The
*registry* knows all hosts and routes each request anew. A *client* is a notebook, or a script.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ollm_widgets.runtime.chat_traits import ChatTraits

if TYPE_CHECKING:
    from ollm_widgets.models.capabilities import Modality
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan

# Clients and hosts of another number do not understand each other.
PROTOCOL = 1

What = Literal["memory", "kv_stats", "truth", "plan", "queue"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that somebody wants to use on the cluster.

    Parameters
    ----------
    key
        The same for configs that are the same; what hosts and registry know a model by.
    name
        What a person calls it.
    config
        `RuntimeConfig.as_dict` of it, its device as the node shall take it.
    group
        Its concurrency group, whose members had better be on other nodes.
    copies
        On how many hosts it shall be at least; below that it leaves none to make room for another.
        With 0 it may leave altogether until it is asked for again.
    """

    key: str
    name: str
    config: Mapping[str, Any]
    group: str | None = None
    copies: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that wants to know where to go.

    Parameters
    ----------
    client
        Who asks.
    wanted
        The model.
    prefix
        Hashes of the beginnings of its prompt, the longest first; see `prefixes`.
    avoid
        Hosts that have failed it.
    adds
        Whether it wants one more copy, on a host that holds none, rather than an answer.
    """

    client: str
    wanted: Wanted
    prefix: tuple[str, ...] = ()
    avoid: frozenset[str] = frozenset()
    adds: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes; its place there is reserved until `reservation` is released.

    Parameters
    ----------
    reservation
        Released exactly once, by the host that served it or by the client that could not reach it.
    host, node
        Serve's unique id of the replica; what a person calls its node.
    loads
        Whether the host does not hold the model yet, and has to load it first.
    evicts
        Keys of idle models that leave the host before.
    why
        Why there, in a sentence.
    """

    reservation: str
    host: str
    node: str
    loads: bool
    evicts: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Offer:
    """How a host would run a model.

    Parameters
    ----------
    plan
        Its plan there.
    runs
        Whether it can run there at all, once there is room and its files have come.
    fits
        Whether there is room now without anybody leaving.
    needed_bytes
        Of the place that matters there: accelerator memory, or host memory without one.
    refusal
        Why it cannot run there.
    """

    plan: RuntimePlan
    runs: bool
    fits: bool
    needed_bytes: int = 0
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """A model in a host's memory.

    Parameters
    ----------
    key, name, group
        As wanted.
    state
        ``ready``, or as the host's manager says.
    busy
        Whether requests run or wait in it.
    bytes
        What it holds there, accelerator and host memory together.
    frees_bytes
        What would become free if it left, of the place that `HostReport.free_bytes` counts.
    """

    key: str
    name: str
    group: str | None
    state: str
    busy: bool
    bytes: int = 0
    frees_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HostReport:
    """What a host holds, each time it changes and once in a while.

    Parameters
    ----------
    number
        Grows with each report of a host; an older one that comes late is left out.
    held
        Every model in its memory.
    free_bytes
        Of its accelerators, or of host memory without one.
    most
        How many models it may hold; None for no limit but memory.
    """

    number: int
    held: tuple[HeldCopy, ...]
    free_bytes: int
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """What a host has loaded; the last item of a load.

    Parameters
    ----------
    plan, config, resolved_model
        As it runs there.
    accepts
        What a message may hold.
    runtime_id
        Its id in the host's manager.
    chat
        What its files say of talking to it.
    """

    plan: RuntimePlan
    config: RuntimeConfig
    resolved_model: ResolvedModel
    accepts: tuple[Modality, ...]
    runtime_id: str
    chat: ChatTraits = field(default_factory=ChatTraits)


@dataclass(frozen=True, slots=True)
class HostView:
    """A host as a person sees it.

    Parameters
    ----------
    host, node
        Serve's id of the replica; what a person calls its node.
    held
        Every model in its memory.
    loading
        Names of what is on its way.
    in_flight
        Reservations by key.
    free_bytes
        As reported last.
    """

    host: str
    node: str
    held: tuple[HeldCopy, ...]
    loading: tuple[str, ...]
    in_flight: Mapping[str, int]
    free_bytes: int


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The cluster as the registry sees it.

    Parameters
    ----------
    hosts
        In the order in which they came.
    reservations
        How many are open.
    clients
        Who is there.
    pinned
        Keys that nobody evicts.
    lost
        Hosts that have been dropped, with why, the newest last; the last 100.
    """

    hosts: tuple[HostView, ...] = ()
    reservations: int = 0
    clients: tuple[str, ...] = ()
    pinned: frozenset[str] = frozenset()
    lost: tuple[tuple[str, str], ...] = field(default=())
