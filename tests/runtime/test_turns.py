"""Any order of coming, leaving and turns."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.runtime.turns import Turns
from ollm_widgets.runtime.worker import ITSELF

CALLERS = ("chat", "loop", "table", ITSELF)

Step = tuple[str, str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from(CALLERS), st.just(0)),
        st.tuples(st.just("cancel"), st.just(""), st.integers(0, 30)),
        st.tuples(st.just("turn"), st.just(""), st.just(0)),
    ),
    max_size=120,
)


class Schedule:
    """Runs steps against `Turns`, and checks what it promises after each of them."""

    def __init__(self) -> None:
        self.turns: Turns[int] = Turns()
        self.caller_of: dict[int, str] = {}
        self.waiting: list[int] = []
        self.ran: list[int] = []
        self.cancelled: list[int] = []
        # For each caller, who has had a turn since its own last one.
        self.since: dict[str, set[str]] = {}
        # Who has been waiting all the time since a caller's last turn.
        self.patient: dict[str, set[str]] = {}
        self.running: str | None = None

    def waits(self, caller: str) -> bool:
        return any(self.caller_of[each] == caller for each in self.waiting)

    def submit(self, caller: str) -> None:
        number = len(self.caller_of)
        self.caller_of[number] = caller
        self.turns.add(caller, number)
        self.waiting.append(number)

    def cancel(self, place: int) -> None:
        if not self.waiting:
            return
        number = self.waiting.pop(place % len(self.waiting))
        assert self.turns.remove(self.caller_of[number], number)
        assert not self.turns.remove(self.caller_of[number], number)
        self.cancelled.append(number)
        if not self.waits(self.caller_of[number]):
            for patient in self.patient.values():
                patient.discard(self.caller_of[number])

    def turn(self) -> None:
        if self.running is not None:
            self.turns.end()
            self.running = None
        if not self.waiting:
            return
        promised = self.turns.in_order()
        number = self.turns.take()
        assert number == promised[0]
        caller = self.caller_of[number]
        mine = [each for each in self.waiting if self.caller_of[each] == caller]
        assert number == mine[0], "one caller's requests run in the order in which they came"
        if caller in self.since:
            unserved = self.patient[caller] - self.since[caller]
            assert not unserved, f"{caller} had two turns, and {unserved} waited"
        self.waiting.remove(number)
        self.ran.append(number)
        self.running = caller
        for others in self.since.values():
            others.add(caller)
        self.since[caller] = set()
        self.patient[caller] = {each for each in CALLERS if each != caller and self.waits(each)}

    def check(self) -> None:
        assert sorted(self.turns.in_order()) == sorted(self.waiting)
        assert len(self.turns) == len(self.waiting)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_any_schedule_is_fair_loses_nothing_and_runs_each_request_once(steps: list[Step]) -> None:
    schedule = Schedule()
    for kind, caller, place in steps:
        if kind == "submit":
            schedule.submit(caller)
        elif kind == "cancel":
            schedule.cancel(place)
        else:
            schedule.turn()
        schedule.check()
    while schedule.waiting:
        schedule.turn()
    assert sorted(schedule.ran + schedule.cancelled) == list(range(len(schedule.caller_of)))


def test_what_is_shown_as_the_order_is_the_order_in_which_it_runs() -> None:
    turns: Turns[str] = Turns()
    for request in ("a1", "a2", "a3", "b1", "c1", "b2"):
        turns.add(request[0], request)
    promised = turns.in_order()
    assert promised == ["a1", "b1", "c1", "a2", "b2", "a3"]
    ran = []
    while len(turns):
        ran.append(turns.take())
        turns.end()
    assert ran == promised


def test_a_newcomer_comes_before_the_next_request_of_who_has_its_turn() -> None:
    turns: Turns[str] = Turns()
    for request in ("loop 1", "loop 2"):
        turns.add("loop", request)
    assert turns.take() == "loop 1"
    turns.add("chat", "hello")
    assert turns.in_order() == ["hello", "loop 2"]
    turns.end()
    assert turns.take() == "hello"
