"""A model that goes to RAM and comes back, as a conversation and its shelf see it."""

from __future__ import annotations

import re

import pytest
import torch

from ollm_widgets import RuntimeBusyError, RuntimeConfig, Session
from ollm_widgets.protocol.views import view_chat, view_memory
from tests.session.tiny import CopyModel
from tests.session.waiting import last_turn, settled, until

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def on_gpu(session: Session, copy_model: CopyModel) -> Session:
    config = RuntimeConfig(copy_model("tiny"), device="cuda")
    with session.manager.acquire(config) as lease:
        session.use(lease.id)
    return session


def test_a_demoted_model_shows_where_it_is_and_comes_back_with_the_next_question(
    on_gpu: Session,
) -> None:
    assert on_gpu.runtime_id is not None
    (item,) = view_memory(on_gpu).items
    assert item.can_demote
    assert "gpu" in {one.place for one in item.holdings}

    on_gpu.keeping.demote(on_gpu.runtime_id)
    until(on_gpu, lambda: view_memory(on_gpu).items[0].state == "demoted")
    shelf = view_memory(on_gpu)
    assert not shelf.items[0].can_demote
    assert "gpu" not in {one.place for one in shelf.items[0].holdings}
    assert re.fullmatch(r"Demoted tiny: .+ from the GPU to RAM\.", shelf.effect)
    shown = view_chat(on_gpu)
    assert shown.can_send
    assert shown.hint == "tiny is in RAM; the next question brings it back to the GPU."

    notes: set[str] = set()
    on_gpu.watch(lambda _part, _job: notes.update(one.note for one in view_chat(on_gpu).turns))
    on_gpu.send("w3 w4")
    settled(on_gpu)
    assert last_turn(on_gpu).state == "done"
    assert "Coming back to the GPU" in notes
    (item,) = view_memory(on_gpu).items
    assert "gpu" in {one.place for one in item.holdings}
    assert re.fullmatch(r"tiny came back: .+ from RAM to the GPU\.", view_memory(on_gpu).effect)


def test_what_answers_cannot_be_demoted_now_and_the_shelf_says_so(on_gpu: Session) -> None:
    assert on_gpu.runtime_id is not None
    with on_gpu.manager.borrow(on_gpu.runtime_id):
        on_gpu.keeping.demote(on_gpu.runtime_id)
        until(on_gpu, lambda: view_memory(on_gpu).problem is not None)
        assert view_memory(on_gpu).items[0].state == "busy"
    assert isinstance(on_gpu.keeping.problem, RuntimeBusyError)
