"""The region `Activity` by commands alone, as a page has it."""

from __future__ import annotations

from ollm_widgets import GenerationConfig, Session
from tests.protocol.page import Page
from tests.session.tiny import CopyModel
from tests.session.waiting import load


def test_a_page_traces_an_answer_and_looks_into_its_tokens(
    session: Session, copy_model: CopyModel
) -> None:
    load(session, copy_model("tiny"))
    session.conversation.generation = GenerationConfig(max_new_tokens=8)
    with Page(session) as page:
        page.ask("hello")
        page.until(lambda: page.events("snapshot"))

        def shown() -> dict[str, object]:
            return page.drawn["activity"]

        assert shown()["pace"] is None
        assert page.ask("trace", on=True)["kind"] == "ack"
        page.until(lambda: shown()["tracing"] == "on")
        page.ask("send", text="w3 w4")
        page.until(lambda: shown()["trace"] and shown()["kv"])
        trace, pace = page.drawn["activity"]["trace"], page.drawn["activity"]["pace"]
        assert trace["numbers"] == list(range(2, 9))
        assert pace["new_tokens"] == 8
        other = next(one for one in trace["numbers"] if one != trace["shown"])
        assert page.ask("inspect", token=str(other))["kind"] == "ack"
        page.until(lambda: page.drawn["activity"]["trace"]["shown"] == other)
        reply = page.ask("inspect", token="99")
        assert reply["kind"] == "error"
        assert reply["body"]["message"] == "token: no token '99' was traced."
        page.until_in_step()


def test_a_page_is_told_why_nothing_can_be_traced(session: Session) -> None:
    with Page(session) as page:
        reply = page.ask("trace", on=True)
        assert reply["kind"] == "error"
        assert reply["body"]["message"] == "No model is loaded yet."
        assert page.ask("trace", on=False)["kind"] == "ack"
