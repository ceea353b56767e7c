"""What the cluster says about where requests go, in sentences for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ollm_widgets.cluster.books.decisions import Busy, Unable
from ollm_widgets.cluster.books.entries import Copy
from ollm_widgets.cluster.books.known_host import KnownHost
from ollm_widgets.cluster.messages import Ask, Offer, Wanted
from ollm_widgets.planning.parts import listed
from ollm_widgets.render.units import format_seconds

# Of a large cluster a sentence names the first nodes.
_MOST_NAMED = 5


def uses(chosen: KnownHost, key: str, holders: Sequence[KnownHost], *, knows_prompt: bool) -> str:
    """Say why a request goes to one of those that hold its model."""
    does = "is loading it" if key in chosen.coming else "holds it"
    rivals = [host for host in holders if host is not chosen]
    if not rivals:
        return f"Node {chosen.node} {does}."
    count = chosen.in_flight
    if knows_prompt:
        fewest = min(host.in_flight for host in rivals)
        return (
            f"Node {chosen.node} {does} and has met the beginning of this prompt "
            f"({_requests(count)} there, {fewest} at least elsewhere)."
        )
    as_idle = [host for host in rivals if host.in_flight == count]
    if not as_idle:
        return f"Node {chosen.node} {does} and has the fewest requests ({count})."
    turn = chosen.turn_of(key) or 0
    later = all((host.turn_of(key) or 0) > turn for host in as_idle)
    more = all(host.free_bytes < chosen.free_bytes for host in as_idle)
    told = "used it longest ago" if later else "has most memory free" if more else "came first"
    return f"Node {chosen.node} {does}, and of those with the fewest requests ({count}) it {told}."


def has_room(
    chosen: KnownHost,
    hosts: Sequence[KnownHost],
    fitting: Sequence[KnownHost],
    wanted: Wanted,
    *,
    kept_away: bool,
) -> str:
    """Say why a model is loaded where nobody has to leave."""
    count = chosen.in_flight
    if kept_away:
        why = f" and, unlike others, no model of group {wanted.group!r}"
    elif len(hosts) > len(fitting) == 1:
        return f"Only node {chosen.node} has room for it."
    elif len(hosts) == 1:
        why = ""
    else:
        why = f" and the fewest requests ({count})" if count else " and nothing to do"
    return f"Node {chosen.node} has room for it{why}."


def makes_room(chosen: KnownHost, going: Sequence[Copy], wanted: Wanted) -> str:
    """Say who leaves for it, and why there."""
    names = listed([copy.held.name for copy in going])
    leave = "leaves" if len(going) == 1 else "leave"
    if any(copy.held.group == wanted.group is not None for copy in going):
        return f"{names} {leave} node {chosen.node}, which keeps one of group {wanted.group!r}."
    return f"No node has room: {names} {leave} node {chosen.node}, unused for the longest time."


def no_hosts(wanted: Wanted, retry_after_s: float) -> Busy:
    """Say that nobody is there."""
    return Busy(
        f"No node is there to run {wanted.name}.",
        f"Try again in {format_seconds(retry_after_s)}, or start a node.",
        retry_after_s,
        no_hosts=True,
    )


def nobody_left(ask: Ask, hosts: Sequence[KnownHost], retry_after_s: float) -> Busy:
    """Say why no host is asked at all."""

    def why(host: KnownHost) -> str:
        if host.host in ask.avoid:
            return f"node {host.node} has failed it"
        if host.turn_of(ask.wanted.key) is not None:
            return f"node {host.node} has it"
        return f"it is just leaving node {host.node}"

    reasons = [why(host) for host in hosts]
    return _busy(f"No node is left for {ask.wanted.name}", reasons, (), retry_after_s)


def nobody_runs(name: str, refusals: Sequence[tuple[str, str]]) -> str:
    """Say what each node says of a model that none of them can run."""
    return f"No node can run {name}: {_each(_by_reason(refusals))}."


def does_not_run(
    wanted: Wanted,
    able: Sequence[KnownHost],
    hosts: Sequence[KnownHost],
    offers: Mapping[str, Offer],
    retry_after_s: float,
) -> Busy | Unable:
    """Say that none of those that were asked can run it; others may later."""
    refused = [host for host in able if host.host in offers]
    if len(refused) == len(hosts):
        refusals = tuple((host.node, offers[host.host].refusal) for host in refused)
        return Unable(nobody_runs(wanted.name, refusals), refusals)
    reasons = [
        f"node {host.node} says {_inner(offers[host.host].refusal)}"
        if host.host in offers
        else f"node {host.node} did not answer"
        for host in able
    ]
    reasons += [f"node {host.node} cannot be used now" for host in hosts if host not in able]
    return _busy(f"No node can take {wanted.name} now", reasons, (), retry_after_s)


def no_room(
    wanted: Wanted,
    hosts: Sequence[KnownHost],
    pinned: frozenset[str],
    least: Mapping[str, int],
    retry_after_s: float,
) -> Busy:
    """Say who holds the room on each host that could run it, and why it stays."""
    holders = tuple(_holder(host, pinned, least) for host in hosts)
    stays = any(
        not copy.leaves and copy.held.key in pinned for h in hosts for copy in h.copies.values()
    )
    steps = ["unpin or unload a model"] if stays else []
    return _busy(f"No node has room for {wanted.name} now", holders, steps, retry_after_s)


def _holder(host: KnownHost, pinned: frozenset[str], least: Mapping[str, int]) -> str:
    def why(copy: Copy) -> str:
        key, count = copy.held.key, host.open.get(copy.held.key, 0)
        if copy.leaves:
            return "leaving"
        if count or copy.held.busy:
            return _requests(count) if count else "busy"
        if key in pinned:
            return "pinned"
        return f"kept on {_nodes(least[key])}" if least.get(key) else "idle"

    held = [f"{copy.held.name} ({why(copy)})" for copy in host.copies.values()]
    held += [f"{coming.name} (loading)" for coming in host.coming.values()]
    return (
        f"node {host.node} holds {listed(held) if held else 'nothing, but has too little memory'}"
    )


def _busy(message: str, reasons: Sequence[str], steps: Sequence[str], retry_after_s: float) -> Busy:
    hint = ", or ".join([f"Try again in {format_seconds(retry_after_s)}", *steps])
    return Busy(f"{message}: {_each(reasons)}.", f"{hint}.", retry_after_s, tuple(reasons))


def _by_reason(refusals: Sequence[tuple[str, str]]) -> list[str]:
    """Write each reason once, with the nodes that give it."""
    nodes: dict[str, list[str]] = {}
    for node, refusal in refusals:
        nodes.setdefault(_inner(refusal), []).append(node)
    return [
        f"node{'' if len(names) == 1 else 's'} {listed(names)} "
        f"{'says' if len(names) == 1 else 'say'} {reason}"
        for reason, names in nodes.items()
    ]


def _each(reasons: Sequence[str]) -> str:
    more = len(reasons) - _MOST_NAMED
    named = [*reasons[:_MOST_NAMED], *([f"and {_nodes(more)} more"] if more > 0 else [])]
    return "; ".join(named)


def _inner(refusal: str) -> str:
    """Put a node's own sentence into another one."""
    said = refusal.strip().removesuffix(".")
    return f'"{said}"' if said else "no"


def _requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"
