"""The rules of the cluster, written down as the specification says them, and nothing else.

It remembers what happened in plain lists, looks at all of them for each decision, and shares no
code with the package, so that the package's answers can be compared with these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ollm_widgets.cluster.messages import Ask, HeldCopy, HostReport, Offer, Wanted

# ``("go", host, loads, evicts)``, ``("offers", hosts)``, ``("busy",)`` or ``("unable",)``.
Answer = tuple[object, ...]
Place = tuple[str, str]


@dataclass
class Load:
    host: str
    key: str
    group: str | None
    needed_bytes: int
    evicts: list[str]
    waiters: set[str] = field(default_factory=set)


@dataclass
class Request:
    id: str
    client: str
    host: str
    key: str


class Rules:
    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.numbers: dict[str, int] = {}
        self.free: dict[str, int] = {}
        self.most: dict[str, int | None] = {}
        self.held: list[tuple[str, HeldCopy]] = []
        self.loads: list[Load] = []
        self.requests: list[Request] = []
        self.claims: dict[Place, Wanted] = {}
        self.pins: set[Place] = set()
        self.prompts: list[tuple[str, str, str]] = []
        # Host and key of each use, the latest last; what leaves a host takes its uses along.
        self.uses: list[Place] = []

    # ------------------------------------------------------------------ where a request goes

    def decide(self, ask: Ask, offers: Mapping[str, Offer] | None) -> Answer:
        hosts = [host for host in self.nodes if host in self.numbers]
        untried = [host for host in hosts if host not in ask.avoid]
        holders = [host for host in untried if self.has(host, ask.wanted.key)]
        if holders and not ask.adds:
            return self.among_holders(ask, holders)
        asked = [
            host
            for host in untried
            if not self.copies(host, ask.wanted.key, leaving=True)
            and not self.load(host, ask.wanted.key)
        ]
        if not asked:
            return ("busy",)
        if offers is None:
            return ("offers", tuple(asked))
        # Nodes that satisfy the resources asked for.
        running = [host for host in asked if host in offers and offers[host].runs]
        if not running:
            everybody_refuses = all(host in offers for host in asked) and asked == hosts
            return ("unable",) if everybody_refuses else ("busy",)
        # Then away from nodes that hold a member of its group; any where those cannot take it.
        away = [host for host in running if not self.group_is_on_node(ask.wanted.group, host)]
        others = [host for host in running if host not in away]
        return (
            self.where_it_fits(ask.wanted, away, offers)
            or self.by_eviction(ask.wanted, away, offers)
            or self.where_it_fits(ask.wanted, others, offers)
            or self.by_eviction(ask.wanted, others, offers)
            or ("busy",)
        )

    def among_holders(self, ask: Ask, holders: list[str]) -> Answer:
        key = ask.wanted.key
        # The same prefix, at most min + 2 and at most 1.5 x min + 1 in flight.
        least = min(self.in_flight(host) for host in holders)
        for beginning in ask.prefix:
            knowing = [host for host in holders if (host, key, beginning) in self.prompts]
            if knowing:
                allowed = [
                    host
                    for host in knowing
                    if self.in_flight(host) <= least + 2 and self.in_flight(host) <= 1.5 * least + 1
                ]
                holders = allowed or holders
                break
        # Fewest requests in flight, oldest last use, most free memory, the first.
        best = holders[0]
        for host in holders[1:]:
            if self.in_flight(host) != self.in_flight(best):
                better = self.in_flight(host) < self.in_flight(best)
            elif self.last_use(host, key) != self.last_use(best, key):
                better = self.last_use(host, key) < self.last_use(best, key)
            else:
                better = self.free[host] > self.free[best]
            best = host if better else best
        load = self.load(best, key)
        return ("go", best, load is not None, tuple(load.evicts) if load else ())

    def where_it_fits(
        self, wanted: Wanted, hosts: list[str], offers: Mapping[str, Offer]
    ) -> Answer | None:
        fitting = [
            host
            for host in hosts
            if offers[host].fits
            and not self.members(wanted.group, host)
            and not self.loads_member(wanted.group, host)
            and self.has_room(host, offers[host], [])
        ]
        if not fitting:
            return None
        # Idle, then least loaded: fewest requests, fewest models, most room.
        fewest = min(self.in_flight(host) for host in fitting)
        fitting = [host for host in fitting if self.in_flight(host) == fewest]
        fewest = min(self.models(host) for host in fitting)
        fitting = [host for host in fitting if self.models(host) == fewest]
        roomiest = max(self.room(host) for host in fitting)
        chosen = next(host for host in fitting if self.room(host) == roomiest)
        return ("go", chosen, True, ())

    def by_eviction(
        self, wanted: Wanted, hosts: list[str], offers: Mapping[str, Offer]
    ) -> Answer | None:
        # The runtimes that would leave each host, and of all of them the least recently used.
        leaving = {host: self.who_leaves(wanted, host, offers[host]) for host in hosts}
        ends = [(self.last_use(host, keys[0]), host) for host, keys in leaving.items() if keys]
        if not ends:
            return None
        oldest = min(use for use, _ in ends)
        chosen = next(host for use, host in ends if use == oldest)
        return ("go", chosen, True, tuple(leaving[chosen]))

    def who_leaves(self, wanted: Wanted, host: str, offer: Offer) -> list[str]:
        if self.loads_member(wanted.group, host):
            return []
        idle = [copy.key for copy in self.copies(host) if self.may_leave(host, copy)]
        idle.sort(key=lambda key: self.last_use(host, key))
        # A host keeps one member of a group at a time, so that the others leave in any case.
        members = self.members(wanted.group, host)
        if not set(members) <= set(idle):
            return []
        others = [key for key in idle if key not in members]
        for count in range(len(others) + 1):
            going = [key for key in idle if key in members or key in others[:count]]
            if going and self.has_room(host, offer, going):
                return going
        return []

    def may_leave(self, host: str, copy: HeldCopy) -> bool:
        is_idle = not copy.busy and not any(
            (request.host, request.key) == (host, copy.key) for request in self.requests
        )
        is_pinned = any(key == copy.key for _, key in self.pins)
        everywhere = sum(len(self.copies(other, copy.key)) for other in self.nodes)
        least = max([0, *(w.copies for (_, key), w in self.claims.items() if key == copy.key)])
        return is_idle and not is_pinned and everywhere - 1 >= least

    # ------------------------------------------------------------------ what is there

    def leaving(self, host: str, copy: HeldCopy) -> bool:
        makes_room = any(copy.key in load.evicts for load in self.loads if load.host == host)
        return makes_room or copy.state == "leaving"

    def copies(self, host: str, key: str | None = None, *, leaving: bool = False) -> list[HeldCopy]:
        return [
            copy
            for where, copy in self.held
            if where == host
            and key in (None, copy.key)
            and (leaving or not self.leaving(host, copy))
        ]

    def load(self, host: str, key: str) -> Load | None:
        found = [load for load in self.loads if (load.host, load.key) == (host, key)]
        return found[0] if found else None

    def has(self, host: str, key: str) -> bool:
        return bool(self.copies(host, key)) or self.load(host, key) is not None

    def in_flight(self, host: str) -> int:
        return sum(1 for request in self.requests if request.host == host)

    def last_use(self, host: str, key: str) -> int:
        uses = [at for at, place in enumerate(self.uses) if place == (host, key)]
        return uses[-1] if uses else -1

    def members(self, group: str | None, host: str) -> list[str]:
        return [copy.key for copy in self.copies(host) if group and copy.group == group]

    def loads_member(self, group: str | None, host: str) -> bool:
        return any(group and load.group == group for load in self.loads if load.host == host)

    def group_is_on_node(self, group: str | None, host: str) -> bool:
        neighbours = [other for other in self.nodes if self.nodes[other] == self.nodes[host]]
        return any(self.members(group, one) or self.loads_member(group, one) for one in neighbours)

    def models(self, host: str) -> int:
        return len(self.copies(host)) + sum(1 for load in self.loads if load.host == host)

    def room(self, host: str) -> int:
        """Free bytes, less what loads under way will take, and with what is about to leave."""
        promised = sum(load.needed_bytes for load in self.loads if load.host == host)
        staying = self.copies(host)
        freed = [c.frees_bytes for c in self.copies(host, leaving=True) if c not in staying]
        return self.free[host] - promised + sum(freed)

    def has_room(self, host: str, offer: Offer, going: list[str]) -> bool:
        freed = sum(copy.frees_bytes for copy in self.copies(host) if copy.key in going)
        limit = self.most[host]
        in_number = limit is None or self.models(host) - len(going) + 1 <= limit
        return in_number and self.room(host) + freed >= offer.needed_bytes

    # ------------------------------------------------------------------ what happens

    def routed(self, ask: Ask, id: str, answer: Answer, needed_bytes: int) -> None:
        _, host, loads, evicts = answer
        assert isinstance(host, str)
        assert isinstance(evicts, tuple)
        key = ask.wanted.key
        if loads:
            load = self.load(host, key)
            if load is None:
                load = Load(host, key, ask.wanted.group, needed_bytes, list(evicts))
                self.loads.append(load)
            load.waiters.add(id)
        self.requests.append(Request(id, ask.client, host, key))
        self.uses.append((host, key))
        self.prompts += [(host, key, beginning) for beginning in ask.prefix]

    def released(self, id: str) -> None:
        for request in [request for request in self.requests if request.id == id]:
            place = (request.host, request.key)
            if self.load(*place) or self.copies(*place, leaving=True):
                self.uses.append(place)
            self.end([request])
            # Its host will say so a little later.
            if not any((other.host, other.key) == place for other in self.requests):
                self.held = [
                    (host, replace(copy, busy=False) if (host, copy.key) == place else copy)
                    for host, copy in self.held
                ]

    def end(self, requests: list[Request]) -> None:
        ids = {request.id for request in requests}
        self.requests = [request for request in self.requests if request.id not in ids]
        for load in list(self.loads):
            load.waiters -= ids
            if not load.waiters:
                self.loads.remove(load)
                self.forget_uses(load.host, load.key)

    def forget_uses(self, host: str, key: str) -> None:
        if not self.has(host, key) and not self.copies(host, key, leaving=True):
            self.uses = [place if place != (host, key) else ("", "") for place in self.uses]

    def left(self, client: str) -> None:
        self.claims = {place: each for place, each in self.claims.items() if place[0] != client}
        self.pins = {place for place in self.pins if place[0] != client}
        self.end([request for request in self.requests if request.client == client])

    def reported(self, host: str, report: HostReport) -> None:
        if host not in self.nodes or report.number <= self.numbers.get(host, -1):
            return
        self.numbers[host] = report.number
        self.free[host], self.most[host] = report.free_bytes, report.most
        self.now_holds(host, list(report.held))

    def now_holds(self, host: str, held: list[HeldCopy]) -> None:
        before = self.copies(host, leaving=True)
        self.held = [(where, copy) for where, copy in self.held if where != host]
        self.held += [(host, copy) for copy in held]
        keys = [copy.key for copy in held]
        self.loads = [one for one in self.loads if one.host != host or one.key not in keys]
        for load in self.loads:
            if load.host == host:
                load.evicts = [key for key in load.evicts if key in keys]
        for copy in before:
            self.forget_uses(host, copy.key)

    def loaded(self, host: str, key: str, number: int) -> None:
        load = self.load(host, key)
        if load is None or number < self.numbers[host]:
            return
        self.numbers[host] = number
        here = self.copies(host, leaving=True)
        freed = sum(copy.frees_bytes for copy in here if copy.key in load.evicts)
        self.free[host] = max(0, self.free[host] + freed - load.needed_bytes)
        size = load.needed_bytes
        new = HeldCopy(key, key.upper(), load.group, "ready", False, size, size)
        self.now_holds(host, [copy for copy in here if copy.key not in load.evicts] + [new])

    def gone(self, host: str, key: str, number: int) -> None:
        if host not in self.numbers or number < self.numbers[host]:
            return
        self.numbers[host] = number
        here = self.copies(host, leaving=True)
        freed = sum(copy.frees_bytes for copy in here if copy.key == key)
        self.free[host] += freed
        self.now_holds(host, [copy for copy in here if copy.key != key])

    def ended(self, host: str) -> None:
        self.nodes.pop(host, None)
        self.numbers.pop(host, None)
        self.held = [(where, copy) for where, copy in self.held if where != host]
        self.loads = [load for load in self.loads if load.host != host]
        self.requests = [request for request in self.requests if request.host != host]
        self.uses = [place if place[0] != host else ("", "") for place in self.uses]
        self.prompts = [prompt for prompt in self.prompts if prompt[0] != host]
