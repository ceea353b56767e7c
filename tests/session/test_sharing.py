from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from ollm_widgets import RuntimeManager, Session
from tests.session.gates import PATIENCE_S, GatedLoader
from tests.session.tiny import CopyModel
from tests.session.waiting import choose, last_turn, load, settled, until


class WitnessedManager(RuntimeManager):
    """The real manager, which says when somebody boards a load that runs already."""

    def __init__(self, loader: GatedLoader) -> None:
        super().__init__(loader)
        self.asked = threading.Semaphore(0)

    def acquire(self, config, progress=None, cancel=None, **options):  # type: ignore[no-untyped-def]
        def seen(record: object) -> None:
            self.asked.release()
            progress(record)

        return super().acquire(config, seen if progress else None, cancel, **options)


def test_a_reader_and_a_session_that_joins_a_load_do_not_wait_for_each_other(
    loader: GatedLoader, copy_model: CopyModel
) -> None:
    manager = WitnessedManager(loader)
    first, late = Session(manager), Session(manager)
    for session in (first, late):
        choose(session, copy_model("tiny"))
    loader.hold()
    first.load()
    assert manager.asked.acquire(timeout=PATIENCE_S)

    # As a view does: it holds the session's lock, and then asks the manager. Whoever joins a
    # load is told the progress so far meanwhile, which must wait for neither.
    with ThreadPoolExecutor(1) as pool, late.lock:
        late.load()
        assert manager.asked.acquire(timeout=PATIENCE_S)
        answered = pool.submit(manager.residents)
        try:
            assert answered.result(PATIENCE_S / 10) == ()
        finally:
            loader.open()
    until(late, lambda: late.loading.state == "loaded")
    until(first, lambda: first.loading.state == "loaded")
    assert first.runtime is late.runtime
    assert loader.loads == 1
    for session in (first, late):
        session.close()
    manager.unload_all()


def test_two_sessions_talk_to_one_model_each_in_its_own_conversation(
    manager: RuntimeManager, loader: GatedLoader, copy_model: CopyModel
) -> None:
    one, other = Session(manager), Session(manager)
    for session in (one, other):
        load(session, copy_model("tiny"))
    one.send("w3")
    other.send("w4")
    for session, question in ((one, "w3"), (other, "w4")):
        settled(session)
        assert session.conversation.transcript.turns[0].text == question
        assert last_turn(session).state == "done"
        session.close()
    assert loader.loads == 1


def test_what_one_session_unloads_is_gone_for_the_other(
    manager: RuntimeManager, copy_model: CopyModel
) -> None:
    one, other = Session(manager), Session(manager)
    runtime_id = load(one, copy_model("tiny"))
    load(other, copy_model("tiny"))
    one.keeping.unload(runtime_id)
    until(other, lambda: other.runtime_id is None)
    for session in (one, other):
        session.close()
