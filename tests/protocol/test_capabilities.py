from __future__ import annotations

from ollm_widgets import GenerationConfig, Session
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.protocol.views import view_capabilities
from tests.session.tiny import CopyModel
from tests.session.waiting import load, settled


def shown(session: Session) -> dict[str, str]:
    view = view_capabilities(session)
    assert view is not None
    return {row.term: row.text for row in view.rows}


def test_the_card_of_a_loaded_model_says_how_its_plan_came_true(
    session: Session, copy_model: CopyModel
) -> None:
    session.manager.loader.selector.measure = lambda device: Bandwidth(
        1e9, 1e9, page_cache_bytes_per_s=1e9
    )
    load(session, copy_model("tiny"))
    assert shown(session)["Load"].startswith("Predicted ")
    assert "RAM for weights" in shown(session)
    assert "Speed" not in shown(session)
    session.conversation.generation = GenerationConfig(max_new_tokens=12)
    session.send("w3 w4")
    settled(session)
    assert session.runtime is not None
    rows = {row.term: row.text for row in session.runtime.card().rows}
    for term in ("Speed", "First token", "Load", "RAM for weights"):
        assert shown(session)[term] == rows[term]
    assert "tokens/s, measured " in shown(session)["Speed"]
