from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable

import pytest

from ollm_widgets import GenerationConfig, RuntimeClosedError, RuntimeManager, Session
from tests.protocol.page import Page
from tests.session.gates import GatedLoader
from tests.session.tiny import CopyModel
from tests.session.waiting import last_turn, load, settled

THREADS, COMMANDS = 3, 30
BOUND_S = 60.0


def commands(page: Page, random: random.Random, references: list[str]) -> list[Callable[[], str]]:
    """What a hand at a page may do, with what is there or was there."""
    runtime = random.choice(["a", "b", "a-2"])
    turn = f"turn-{random.randrange(1, 9)}"
    return [
        lambda: page.tell("hello"),
        lambda: page.tell("resync"),
        lambda: page.tell("search", text=random.choice(["", "smol", *references])),
        lambda: page.tell("choose", reference=random.choice(references)),
        lambda: page.tell("edit", field="context_tokens", value=random.choice(["", "64", "x"])),
        lambda: page.tell(
            "place",
            gpu_layers="",
            ram_layers=random.choice(["", "1", "2"]),
            settled=random.random() < 0.5,
        ),
        lambda: page.tell("preset", preset=random.choice(["fastest", "small-machine"])),
        lambda: page.tell(random.choice(["undo", "redo"])),
        lambda: page.tell("load", anyway=False),
        lambda: page.tell("load", anyway=random.random() < 0.2),
        lambda: page.tell("reload"),
        lambda: page.tell("cancel"),
        lambda: page.tell("unload", runtime=runtime, force=random.random() < 0.5),
        lambda: page.tell("demote", runtime=runtime),
        lambda: page.tell("ask", holder="1"),
        lambda: page.tell("pin", runtime=runtime, pinned=random.random() < 0.3),
        lambda: page.tell("use", runtime=runtime),
        lambda: page.tell("send", text="w3 w4"),
        lambda: page.tell("send", text="w3 w4"),
        lambda: page.tell("stop"),
        lambda: page.tell("retry", turn=turn),
        lambda: page.tell("edit-turn", turn=turn, text="w5"),
        lambda: page.tell("show", turn=turn),
        lambda: page.tell("sample", field="max_new_tokens", value=random.choice(["", "20"])),
        lambda: page.tell("clear"),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_hands_at_several_pages_never_wait_for_each_other_for_good(
    loader: GatedLoader, copy_model: CopyModel, seed: int
) -> None:
    """Two sessions share a manager that has room for one model, so that each evicts the other."""
    manager = RuntimeManager(loader, max_loaded=1 + seed % 2, busy_wait_s=0.1)
    sessions = [Session(manager, GenerationConfig(max_new_tokens=40)) for _two in range(2)]
    references = [copy_model("a"), copy_model("b"), "no-such-model"]
    with Page(sessions[0]) as one, Page(sessions[0]) as other, Page(sessions[1]) as third:
        pages = [one, other, third]

        def hand(number: int, index: int) -> None:
            chance = random.Random(f"{seed}-{number}-{index}")
            for _command in range(COMMANDS):
                act = chance.choice(commands(pages[index], chance, references))
                act()
                if chance.random() < 0.3:  # most hands do not wait, some do
                    settled(sessions[index // 2])

        threads = [
            threading.Thread(target=hand, args=(number, index), daemon=True)
            for number in range(THREADS)
            for index in range(len(pages))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND_S)
        assert not any(thread.is_alive() for thread in threads), "a command never returned"

        for page in pages:
            page.until(lambda page=page: len(page.replies()) == THREADS * COMMANDS)
            codes = {reply["body"]["code"] for reply in page.replies() if reply["kind"] == "error"}
            assert not codes & {"internal", "bad-message"}
        for session in sessions:
            settled(session)
            for resident in manager.residents():
                with contextlib.suppress(RuntimeClosedError):  # it may be about to leave
                    manager.unpin(resident.id)

        # All is still alive: each session can load and get an answer, and its pages agree.
        for session in sessions:
            session.conversation.clear()
            load(session, references[0])
            session.send("w3")
            settled(session)
            assert last_turn(session).state == "done"
        for page in pages:
            page.ask("resync")
            page.until(lambda page=page: page.drawn["chat"]["can_send"])
            page.until_in_step()
            seqs = [event["seq"] for event in page.events()]
            assert seqs == list(range(1, len(seqs) + 1))
    for session in sessions:
        session.close()
    manager.unload_all(force=True)
