"""Traces of captured steps, as the pictures show them."""

from __future__ import annotations

import pytest
import torch

from ollm_widgets import GenerationConfig, RuntimeConfig, Session
from ollm_widgets.protocol.views import view_activity
from tests.session.tiny import CopyModel
from tests.session.waiting import settled, until

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("layers", [None, 0], ids=["resident", "streamed"])
def test_captured_steps_are_numbered_by_their_token_and_add_up(
    session: Session, copy_model: CopyModel, layers: int | None
) -> None:
    config = RuntimeConfig(copy_model("tiny"), device="cuda", offload_gpu_layers=layers)
    with session.manager.acquire(config) as lease:
        session.use(lease.id)
    session.conversation.generation = GenerationConfig(max_new_tokens=40)
    for question in ("w3 w4", "w5"):
        session.activity.trace(True)
        until(session, lambda: view_activity(session).tracing == "on")
        before = session.activity.tracing.latest
        session.send(question)
        settled(session)
        until(session, lambda before=before: session.activity.tracing.latest is not before)
        latest, view = session.activity.tracing.latest, view_activity(session).trace
        assert latest is not None
        assert view is not None
        assert list(view.numbers) == sorted(set(view.numbers))
        # The last step may have been launched before it was known that nobody needs it.
        assert 1 <= view.numbers[0] <= view.numbers[-1] <= 41
        steps = [token for token in latest.tokens if not token.prompt_tokens]
        assert [token.number for token in steps] == list(view.numbers)
        for index, token in enumerate(steps):
            told_ms = sum(part.tokens_ms[index] for part in view.parts)
            assert told_ms == pytest.approx(token.total_s * 1000, abs=0.01)
        assert ("were recorded" in view.note) == (latest.unrecorded > 0)
