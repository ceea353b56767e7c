"""Where a request goes: rules without clock, threads or memory of their own.

A model that somebody holds, or loads, is used there: fewest requests in flight first, then the
oldest last use, then most free memory, then the host that came first. Whoever knows the beginning
of the prompt is preferred while it is not much busier than the idlest. A model that nobody holds
is loaded where it runs: away from its group, where it fits, where least is under way, else where
what was used longest ago makes room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ollm_widgets.cluster.books import wording
from ollm_widgets.cluster.books.decisions import Decision, Go, OffersWanted
from ollm_widgets.cluster.books.entries import Copy
from ollm_widgets.cluster.books.known_host import KnownHost
from ollm_widgets.cluster.messages import Ask, Offer, Wanted


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision is made from; nothing of it is changed.

    Parameters
    ----------
    hosts
        All that take requests, in the order in which they came.
    pinned
        Keys of models that never make room.
    least
        On how many hosts a model stays at least, by key; 0 for what is not in it.
    retry_after_s
        When to ask again after a refusal.
    """

    hosts: Sequence[KnownHost]
    pinned: frozenset[str]
    least: Mapping[str, int]
    retry_after_s: float


def decide(ask: Ask, now: Situation, offers: Mapping[str, Offer] | None = None) -> Decision:
    """Say where a request goes.

    Parameters
    ----------
    offers
        How hosts would run the model; whoever made none is left out where it has to be loaded.
        Without any, a model that nobody holds gives `OffersWanted`.
    """
    if not now.hosts:
        return wording.no_hosts(ask.wanted, now.retry_after_s)
    key = ask.wanted.key
    untried = [host for host in now.hosts if host.host not in ask.avoid]
    if not ask.adds:
        holders = [host for host in untried if host.turn_of(key) is not None]
        if holders:
            return _use(ask, holders)
    # A model that leaves a host is not loaded there again until it has left.
    able = [host for host in untried if key not in host.copies and key not in host.coming]
    if not able:
        return wording.nobody_left(ask, now.hosts, now.retry_after_s)
    if offers is None:
        return OffersWanted(tuple(host.host for host in able))
    return _load(ask.wanted, able, now, offers)


# ------------------------------------------------------------------ held by somebody


def _use(ask: Ask, holders: Sequence[KnownHost]) -> Go:
    """Choose among those that hold it, or load it."""
    key = ask.wanted.key
    preferred = _by_prefix(ask, holders)
    chosen = min(preferred or holders, key=lambda host: _order(host, key))
    why = wording.uses(chosen, key, holders, knows_prompt=bool(preferred))
    coming = chosen.coming.get(key)
    return Go(chosen.host, coming is not None, coming.evicts if coming is not None else (), why)


def _order(host: KnownHost, key: str) -> tuple[int, int, int]:
    return (host.in_flight, host.turn_of(key) or 0, -host.free_bytes)


def _by_prefix(ask: Ask, holders: Sequence[KnownHost]) -> list[KnownHost]:
    """Return who knows most of the prompt's beginning and is not much busier than the idlest."""
    known = {host.host: host.seen.longest(ask.wanted.key, ask.prefix) for host in holders}
    longest = max(known.values())
    if longest == 0:
        return []
    idlest = min(host.in_flight for host in holders)
    bound = min(idlest + 2, 1.5 * idlest + 1)
    return [host for host in holders if known[host.host] == longest and host.in_flight <= bound]


# ------------------------------------------------------------------ held by nobody


def _load(
    wanted: Wanted,
    able: Sequence[KnownHost],
    now: Situation,
    offers: Mapping[str, Offer],
) -> Decision:
    """Choose where to load it."""
    running = [host for host in able if host.host in offers and offers[host.host].runs]
    if not running:
        return wording.does_not_run(wanted, able, now.hosts, offers, now.retry_after_s)
    taken = _nodes_of_group(wanted, now.hosts)
    away = [host for host in running if host.node_id not in taken]
    rest = [host for host in running if host.node_id in taken]
    for hosts in filter(None, (away, rest)):
        chosen = _with_room(wanted, hosts, offers, kept_away=hosts is away and bool(rest))
        chosen = chosen or _by_eviction(wanted, hosts, now, offers)
        if chosen is not None:
            return chosen
    return wording.no_room(wanted, running, now.pinned, now.least, now.retry_after_s)


def _nodes_of_group(wanted: Wanted, hosts: Sequence[KnownHost]) -> frozenset[str]:
    """Return the nodes that hold or load a member of its group."""
    return frozenset(
        host.node_id for host in hosts if _loads_member(wanted, host) or _members(wanted, host)
    )


def _is_member(wanted: Wanted, group: str | None) -> bool:
    return group is not None and group == wanted.group


def _members(wanted: Wanted, host: KnownHost) -> list[Copy]:
    """Return the models of its group that a host holds: the host's manager keeps one at a time."""
    if wanted.group is None:
        return []
    return [copy for copy in host.staying() if _is_member(wanted, copy.held.group)]


def _loads_member(wanted: Wanted, host: KnownHost) -> bool:
    return any(_is_member(wanted, coming.group) for coming in host.coming.values())


def _with_room(
    wanted: Wanted, hosts: Sequence[KnownHost], offers: Mapping[str, Offer], *, kept_away: bool
) -> Go | None:
    """Choose the least busy of those where it fits as it is."""
    fitting = [host for host in hosts if _fits(wanted, host, offers[host.host], ())]
    if not fitting:
        return None
    chosen = min(fitting, key=_load_of)
    offer = offers[chosen.host]
    why = wording.has_room(chosen, hosts, fitting, wanted, kept_away=kept_away)
    return Go(chosen.host, True, (), why, offer.needed_bytes)


def _load_of(host: KnownHost) -> tuple[int, int, int]:
    """Requests in flight, then models, then the least room."""
    return (host.in_flight, host.count, -host.room_bytes)


def _by_eviction(
    wanted: Wanted, hosts: Sequence[KnownHost], now: Situation, offers: Mapping[str, Offer]
) -> Go | None:
    """Choose where the model that was used longest ago of all makes room."""
    held = Counter(key for host in now.hosts for key in host.copies if not host.copies[key].leaves)
    found = []
    for host in hosts:
        going = _goes(wanted, host, now, held, offers[host.host])
        if going:
            found.append((going[0].turn, host, going))
    if not found:
        return None
    _turn, chosen, going = min(found, key=lambda each: each[0])
    why = wording.makes_room(chosen, going, wanted)
    evicts = tuple(copy.held.key for copy in going)
    return Go(chosen.host, True, evicts, why, offers[chosen.host].needed_bytes)


def _goes(
    wanted: Wanted, host: KnownHost, now: Situation, held: Mapping[str, int], offer: Offer
) -> list[Copy]:
    """Return who leaves a host for it, the least recently used first; empty if it is no use."""
    if _loads_member(wanted, host):
        return []
    idle = sorted(
        (copy for copy in host.staying() if _may_leave(copy, host, now, held)),
        key=lambda copy: copy.turn,
    )
    members = {copy.held.key for copy in _members(wanted, host)}
    going = [copy for copy in idle if copy.held.key in members]
    if len(going) < len(members):
        return []
    others = [copy for copy in idle if copy.held.key not in members]
    while not _fits(wanted, host, offer, going):
        if not others:
            return []
        going.append(others.pop(0))
    keys = {copy.held.key for copy in going}
    return [copy for copy in idle if copy.held.key in keys]


def _may_leave(copy: Copy, host: KnownHost, now: Situation, held: Mapping[str, int]) -> bool:
    """Whether a model is idle, not pinned, and on hosts enough without this one."""
    key = copy.held.key
    idle = not copy.held.busy and not host.open.get(key)
    return idle and key not in now.pinned and held[key] > now.least.get(key, 0)


def _fits(wanted: Wanted, host: KnownHost, offer: Offer, going: Sequence[Copy]) -> bool:
    """Whether it fits once some have left: by their number, by bytes, and by what the host says."""
    if not going and (not offer.fits or _loads_member(wanted, host) or _members(wanted, host)):
        return False
    freed = sum(copy.held.frees_bytes for copy in going)
    in_count = host.most is None or host.count - len(going) < host.most
    return in_count and offer.needed_bytes <= host.room_bytes + freed
