"""All that a ledger and those around it can do, one step at a time, for every order of steps."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ollm_widgets.runtime.residency.ledger import Ledger
from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.runtime.residency.records import Resident
from ollm_widgets.runtime.residency.room import next_step
from ollm_widgets.runtime.residency.steps import (
    Absent,
    Close,
    Demote,
    Enter,
    Gone,
    Grant,
    Join,
    Journey,
    Linger,
    Refuse,
    Return,
    Wait,
)

GPU, RAM = "cuda:0", "ram"
# What may happen beside what has to: a world allows some of it.
Chance = Literal["cancel", "fail", "pin", "unload", "force", "demote", "request"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a world is like: its runtimes, its limits, and what may befall it."""

    max_loaded: int | None
    chances: frozenset[Chance]
    runtimes: tuple[str, ...] = ("a", "b", "c")
    callers: int = 3
    groups: tuple[tuple[str, str], ...] = ()
    gpu_bytes: int = 0
    ram_bytes: int = 0
    size_bytes: int = 0
    anyway: bool = False

    @property
    def counts_bytes(self) -> bool:
        return self.size_bytes > 0

    def group(self, name: str) -> str | None:
        return dict(self.groups).get(name)


@dataclass(frozen=True, slots=True)
class Stub:
    """Stands where a runtime would; the ledger asks its name only."""

    name: str


@dataclass(slots=True)
class Caller:
    """``idle``, ``waits`` for a journey, ``lingers`` to ask again, or ``holds`` a lease."""

    state: Literal["idle", "waits", "lingers", "holds"] = "idle"
    wants: str = ""
    journey: Journey | None = None
    resident: Resident | None = None


@dataclass(slots=True)
class World:
    """A ledger, its callers, and what is being done for each journey and by hand."""

    rules: Rules
    ledger: Ledger
    callers: list[Caller]
    # By the number of the journey: "load", "return", or what closes or demotes whom.
    effects: dict[int, tuple[str, Resident | None]] = field(default_factory=dict)
    by_hand: list[tuple[str, Resident]] = field(default_factory=list)

    @classmethod
    def new(cls, rules: Rules) -> World:
        ledger = Ledger(ResidencyOptions(max_loaded=rules.max_loaded))
        return cls(rules, ledger, [Caller() for _ in range(rules.callers)])

    # ------------------------------------------------------------------ copying and comparing

    def copied(self) -> World:
        """Copy all of it, so that one step of many can be taken."""
        ledger = Ledger(self.ledger.options)
        ledger._turns, ledger._numbers = self.ledger._turns, self.ledger._numbers
        known: dict[int, Any] = {}

        def resident(one: Resident | None) -> Resident | None:
            if one is None:
                return None
            if id(one) not in known:
                known[id(one)] = copy.copy(one)
            return known[id(one)]

        def journey(one: Journey | None) -> Journey | None:
            if one is None:
                return None
            if id(one) not in known:
                known[id(one)] = made = copy.copy(one)
                made.resident, made.landed = resident(one.resident), resident(one.landed)
            return known[id(one)]

        ledger.residents = {name: resident(one) for name, one in self.ledger.residents.items()}
        ledger.journeys = {number: journey(one) for number, one in self.ledger.journeys.items()}
        callers = [
            Caller(one.state, one.wants, journey(one.journey), resident(one.resident))
            for one in self.callers
        ]
        effects = {number: (kind, resident(one)) for number, (kind, one) in self.effects.items()}
        by_hand = [(kind, resident(one)) for kind, one in self.by_hand]
        return World(self.rules, ledger, callers, effects, by_hand)

    def fingerprint(self) -> Hashable:
        """Equal for worlds that go on alike: callers are interchangeable, and only order counts."""
        by_use = self.ledger.by_use()
        places = {id(one): place for place, one in enumerate(by_use)}
        numbers = {number: place for place, number in enumerate(sorted(self.ledger.journeys))}

        def place(one: Resident | None) -> int | str | None:
            return None if one is None else places.get(id(one), f"gone {one.id} {one.leases}")

        residents = tuple(
            (one.id, one.state, one.leases, one.pinned, one.busy, one.stays, bool(one.away))
            for one in by_use
        )
        journeys = tuple(
            (
                min(each.keys),
                place(each.resident),
                each.passengers,
                each.asks,
                each.under_way,
                each.cancelled,
                *((kind, place(one)) for kind, one in [self.effects.get(number, ("", None))]),
            )
            for number, each in sorted(self.ledger.journeys.items())
        )
        callers = tuple(
            sorted(
                (
                    one.state,
                    one.wants,
                    str(None if one.journey is None else numbers.get(one.journey.number)),
                    str(place(one.resident)),
                )
                for one in self.callers
            )
        )
        by_hand = tuple(sorted((kind, str(place(one))) for kind, one in self.by_hand))
        return residents, journeys, callers, by_hand

    # ------------------------------------------------------------------ the steps

    def steps(self) -> Iterator[tuple[str, bool]]:
        """Yield what can happen next, and whether it must, sooner or later."""
        for number, caller in enumerate(self.callers):
            if caller.state == "idle":
                yield from ((f"ask {number} {name}", False) for name in self.rules.runtimes)
            elif caller.state == "holds":
                yield f"release {number}", True
            elif caller.state == "lingers":
                keys = frozenset({caller.wants})
                if not isinstance(self.ledger.answer(keys), Linger):
                    yield f"ask {number} {caller.wants}", True
            elif "cancel" in self.rules.chances:
                yield f"cancel {number}", False
        for number, journey in self.ledger.journeys.items():
            kind, _ = self.effects.get(number, ("", None))
            if not kind:
                if self._is_stuck(journey):
                    continue
                yield f"fly {number}", True
                continue
            yield f"done {number}", True
            if "fail" in self.rules.chances or (kind == "close" and self._may_be_asked):
                yield f"fail {number}", False
        for place, _ in enumerate(self.by_hand):
            yield f"hand {place}", True
        yield from self._by_others()

    def _by_others(self) -> Iterator[tuple[str, bool]]:
        chances = self.rules.chances
        for one in self.ledger.residents.values():
            settled = one.state in ("ready", "demoted")
            if "pin" in chances and one.state != "leaving":
                yield f"pin {one.id}", False
            if one.busy:
                yield f"answered {one.id}", True
            elif self._may_be_asked and one.state == "ready":
                yield f"request {one.id}", False
            if "unload" in chances and settled and not one.in_use:
                yield f"unload {one.id}", False
            if "force" in chances and settled and one.in_use:
                yield f"unload {one.id}", False
            if "demote" in chances and one.state == "ready" and not one.in_use:
                yield f"demote {one.id}", False

    @property
    def _may_be_asked(self) -> bool:
        return "request" in self.rules.chances

    def _is_stuck(self, journey: Journey) -> bool:
        """Whether its thread would only wait: nothing changes by its looking again."""
        if journey.cancelled or not journey.asks:
            return False
        return isinstance(next_step(self.ledger, journey, self.free()), Wait)

    def free(self) -> dict[str, int]:
        """Bytes that are free; what is being loaded or brought back has taken none yet."""
        if not self.rules.counts_bytes:
            return {}
        free = {GPU: self.rules.gpu_bytes, RAM: self.rules.ram_bytes}
        for one in self.ledger.residents.values():
            for place, size in one.held.items():
                free[place] -= size
        return free

    def after(self, step: str) -> World:
        """Return the world after a step."""
        world = self.copied()
        verb, *words = step.split()
        getattr(world, f"_{verb}")(*words)
        return world

    def _ask(self, number: str, name: str) -> None:
        caller, keys = self.callers[int(number)], frozenset({name})
        caller.wants = name
        answer = self.ledger.answer(keys)
        if isinstance(answer, Grant):
            self.ledger.lease(answer.resident, 0.0)
            caller.state, caller.resident = "holds", answer.resident
            return
        if isinstance(answer, Linger):
            caller.state = "lingers"
            return
        if isinstance(answer, Join):
            journey = answer.journey
        elif isinstance(answer, Return):
            journey = self.ledger.board_return(answer.resident)
        else:
            assert isinstance(answer, Absent)
            journey = self.ledger.board_load(name, keys, self.rules.group(name))
            journey.anyway = self.rules.anyway
        self.ledger.board(journey)
        caller.state, caller.journey = "waits", journey

    def _release(self, number: str) -> None:
        caller = self.callers[int(number)]
        assert caller.resident is not None
        self.ledger.release(caller.resident, 0.0)
        self.callers[int(number)] = Caller()

    def _cancel(self, number: str) -> None:
        caller = self.callers[int(number)]
        assert caller.journey is not None
        self.ledger.leave(caller.journey, 0.0)
        self.callers[int(number)] = Caller()

    def _fly(self, text: str) -> None:
        number = int(text)
        journey = self.ledger.journeys[number]
        if journey.cancelled:
            self._end(journey, "idle")
            return
        size = self.rules.size_bytes
        needs = {GPU: size} if self.rules.counts_bytes else {}
        self.ledger.ask(journey, journey.needs if journey.resident else needs)
        step = next_step(self.ledger, journey, self.free())
        if isinstance(step, Enter):
            self.ledger.enter(journey)
            self.effects[number] = ("return" if journey.resident else "load", journey.resident)
        elif isinstance(step, Close):
            one = step.resident
            assert not one.in_use, "evicted under a lease"
            assert not one.pinned, "evicted although it is pinned"
            self.ledger.begin_close(one)
            self.effects[number] = ("close", one)
        elif isinstance(step, Demote):
            assert not step.resident.in_use
            assert not step.resident.pinned
            self.ledger.begin_demotion(step.resident)
            self.effects[number] = ("demote", step.resident)
        elif isinstance(step, Gone):
            self._end(journey, "lingers")
        elif isinstance(step, Refuse):
            self._end(journey, "idle")
        else:
            assert isinstance(step, Wait)
            assert step.holds, "it waits for nobody"

    def _done(self, number: str) -> None:
        kind, one = self.effects.pop(int(number))
        journey = self.ledger.journeys[int(number)]
        if kind == "load":
            (name,) = journey.keys
            held = {GPU: self.rules.size_bytes} if self.rules.counts_bytes else {}
            made = Resident(str(name), Stub(str(name)), {name}, 0.0)  # type: ignore[arg-type]
            made.group, made.held, made.demotable = journey.group, held, self.rules.counts_bytes
            self._land(journey, made)
        elif kind == "return":
            assert one is not None
            one.held = {GPU: self.rules.size_bytes}
            self._land(journey, one)
        else:
            assert one is not None
            self._moved(kind, one)

    def _fail(self, number: str) -> None:
        kind, one = self.effects.pop(int(number))
        if kind in ("load", "return"):
            self._end(self.ledger.journeys[int(number)], "idle")
            return
        assert one is not None
        if kind == "demote":
            self.ledger.end_demotion(one, None)
        else:  # a request came first
            self.ledger.stay(one, demoted=bool(one.away))
            self.ledger.activity(one, True, 0.0)

    def _hand(self, place: str) -> None:
        self._moved(*self.by_hand.pop(int(place)))

    def _pin(self, name: str) -> None:
        one = self.ledger.residents[name]
        self.ledger.pin(one, not one.pinned)

    def _request(self, name: str) -> None:
        self.ledger.activity(self.ledger.residents[name], True, 0.0)

    def _answered(self, name: str) -> None:
        self.ledger.activity(self.ledger.residents[name], False, 0.0)

    def _unload(self, name: str) -> None:
        one = self.ledger.residents[name]
        self.ledger.begin_close(one)
        self.by_hand.append(("close", one))

    def _demote(self, name: str) -> None:
        one = self.ledger.residents[name]
        self.ledger.begin_demotion(one)
        self.by_hand.append(("demote", one))

    def _moved(self, kind: str, one: Resident) -> None:
        if kind == "close":
            self.ledger.closed(one)
            return
        away = {GPU: self.rules.size_bytes}
        one.held = {RAM: self.rules.size_bytes} if self.rules.counts_bytes else {}
        self.ledger.end_demotion(one, away)

    def _land(self, journey: Journey, one: Resident) -> None:
        self.ledger.landed(journey, one, 0.0)
        for caller in self.callers:
            if caller.journey is journey:
                caller.state, caller.journey, caller.resident = "holds", None, one

    def _end(self, journey: Journey, then: Literal["idle", "lingers"]) -> None:
        self.ledger.failed(journey)
        for place, caller in enumerate(self.callers):
            if caller.journey is journey:
                wants = caller.wants if then == "lingers" else ""
                self.callers[place] = Caller(then, wants)

    # ------------------------------------------------------------------ what must hold

    def check(self) -> None:
        """Assert what must be true of every world."""
        ledger, rules = self.ledger, self.rules
        residents, journeys = ledger.residents.values(), ledger.journeys.values()
        loading = [each for each in journeys if each.under_way and each.resident is None]
        if rules.max_loaded is not None and not rules.anyway:
            assert len(residents) + len(loading) <= rules.max_loaded, "more than the limit"
        keys = [key for one in residents for key in one.keys]
        keys += [key for each in journeys if each.resident is None for key in each.keys]
        assert len(keys) == len(set(keys)), "one runtime twice"
        comes_back = [each.resident.id for each in journeys if each.resident is not None]
        assert len(comes_back) == len(set(comes_back)), "one runtime comes back twice"
        groups = [one.group for one in (*residents, *loading) if one.group is not None]
        assert len(groups) == len(set(groups)), "two of a group"
        for one in residents:
            held = sum(caller.resident is one for caller in self.callers)
            assert one.leases == held, "leases are miscounted"
            if one.leases and "force" not in rules.chances:
                assert one.state == "ready", "moved under a lease"
        for each in journeys:
            boarded = sum(caller.journey is each for caller in self.callers)
            assert each.passengers == boarded, "passengers are miscounted"
        if rules.counts_bytes and not rules.anyway:
            self._check_bytes()

    def _check_bytes(self) -> None:
        free = self.free()
        moving = [one for one in self.ledger.residents.values() if one.state == "demoting"]
        under_way = [each for each in self.ledger.journeys.values() if each.under_way]
        taken = sum(each.needs.get(GPU, 0) for each in under_way)
        assert free[GPU] >= taken, "more than the accelerator has"
        by_hand = sum(kind == "demote" for kind, _ in self.by_hand)
        going = (len(moving) - by_hand) * self.rules.size_bytes
        if "demote" not in self.rules.chances:
            assert free[RAM] >= going, "more than host memory has"

    @property
    def somebody_waits(self) -> bool:
        return any(caller.state in ("waits", "lingers") for caller in self.callers)
