from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import comm
import msgspec
import pytest

from ollm_widgets import (
    Activity,
    CapabilityCard,
    Chat,
    LoadPanel,
    ModelPicker,
    PlanEditor,
    RuntimeShelf,
    Session,
    Workbench,
    default_session,
)
from ollm_widgets.protocol.snapshot import PROTOCOL_VERSION, Snapshot
from ollm_widgets.protocol.views import view_snapshot
from ollm_widgets.protocol.wire import as_plain_data
from ollm_widgets.widgets.base import STATIC, SessionWidget
from tests.session.tiny import CopyModel
from tests.session.waiting import load, settled

PATIENCE_S = 15.0
WIDGETS = (
    Activity,
    CapabilityCard,
    Chat,
    LoadPanel,
    ModelPicker,
    PlanEditor,
    RuntimeShelf,
    Workbench,
)


# They say how long ago, or how full by now.
MOVING = ("memory", "activity")


class Wire(comm.base_comm.BaseComm):
    """A comm without a kernel, which keeps what is sent to the page."""

    def __init__(self, **options: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.news = threading.Condition()
        super().__init__(**options)

    def publish_msg(self, msg_type: str, data: Any = None, **_options: Any) -> None:
        with self.news:
            self.sent.append(json.loads(json.dumps({"type": msg_type, **(data or {})})))
            self.news.notify_all()

    def customs(self) -> list[dict[str, Any]]:
        return [one["content"] for one in tuple(self.sent) if one.get("method") == "custom"]

    def until(self, holds: Any) -> None:
        with self.news:
            assert self.news.wait_for(holds, PATIENCE_S)


@pytest.fixture(autouse=True)
def _wires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "create_comm", Wire)


@pytest.fixture(params=WIDGETS, ids=lambda kind: kind.__name__)
def widget(request: pytest.FixtureRequest, session: Session) -> Iterator[SessionWidget]:
    widget = request.param(session)
    yield widget
    widget.close()


def wire(widget: SessionWidget) -> Wire:
    assert isinstance(widget.comm, Wire)
    return widget.comm


def from_page(widget: SessionWidget, data: dict[str, Any]) -> None:
    """What ipywidgets gets when a page sends something."""
    wire(widget).handle_msg({"content": {"data": data}, "buffers": []})


def ask(widget: SessionWidget, name: str, **body: object) -> dict[str, Any]:
    command = {"v": PROTOCOL_VERSION, "id": f"{name}-1", "name": name, "body": body}
    from_page(widget, {"method": "custom", "content": command})
    wire(widget).until(
        lambda: [one for one in wire(widget).customs() if one.get("id") == f"{name}-1"]
    )
    return next(one for one in wire(widget).customs() if one.get("id") == f"{name}-1")


def test_a_widget_opens_with_a_snapshot_that_the_schema_allows(widget: SessionWidget) -> None:
    snapshot = msgspec.convert(widget.snapshot, Snapshot)
    assert snapshot.title == "No model chosen"
    assert snapshot.seq == 0
    states = [one["state"] for one in wire(widget).sent if "state" in one]
    sent = [state["snapshot"] for state in states if "snapshot" in state]
    assert msgspec.convert(sent[-1], Snapshot) == snapshot


def test_a_message_of_the_page_is_answered_through_the_comm(widget: SessionWidget) -> None:
    reply = ask(widget, "hello")
    assert reply["kind"] == "ack"
    wire(widget).until(lambda: [one for one in wire(widget).customs() if one["kind"] == "snapshot"])


@pytest.mark.parametrize("content", [None, [], "x", {}, {"v": 1, "id": "x", "name": "explode"}])
def test_nonsense_from_the_page_is_answered_too(session: Session, content: object) -> None:
    widget = Chat(session)
    from_page(widget, {"method": "custom", "content": content})
    wire(widget).until(wire(widget).customs)
    (reply,) = wire(widget).customs()
    assert reply["body"]["code"] == "bad-message"
    assert ask(widget, "resync")["kind"] == "ack"
    widget.close()


def test_a_page_cannot_set_the_snapshot(widget: SessionWidget) -> None:
    before = widget.snapshot
    widget.set_state({"snapshot": {"title": "mine"}})
    from_page(widget, {"method": "update", "state": {"snapshot": {}}, "buffer_paths": []})
    assert widget.snapshot == before
    with pytest.raises(Exception, match="read-only"):
        widget.snapshot = {}


def test_a_file_of_the_page_comes_beside_its_message(session: Session) -> None:
    widget = Chat(session)
    body = {"upload": "u", "name": "notes.txt", "last": True}
    command = {"v": PROTOCOL_VERSION, "id": "x", "name": "attach", "body": body}
    data = {"method": "custom", "content": command}
    wire(widget).handle_msg({"content": {"data": data}, "buffers": [memoryview(b"abc")]})
    wire(widget).until(wire(widget).customs)
    assert wire(widget).customs()[0]["kind"] == "ack"
    assert session.conversation.tray.items[0].text == "abc"
    widget.close()


def test_the_snapshot_follows_the_session(
    widget: SessionWidget, session: Session, copy_model: CopyModel
) -> None:
    """A page is told of the parts that its widget draws."""
    load(session, copy_model("tiny"))
    now = as_plain_data(view_snapshot(session, 0))
    for part in widget._draws:
        if part not in MOVING:
            name = "title" if part == "header" else part
            wire(widget).until(lambda name=name: widget.snapshot[name] == now[name])
    msgspec.convert(widget.snapshot, Snapshot)


def test_closing_a_widget_ends_its_sender_and_leaves_models_loaded(
    session: Session, copy_model: CopyModel
) -> None:
    runtime_id = load(session, copy_model("tiny"))
    widget = Workbench(session)
    ask(widget, "hello")
    line, sender = wire(widget), widget._outbox._thread
    widget.close()
    assert not sender.is_alive()
    assert session.manager.get(runtime_id) is not None
    sent = len(line.sent)
    session.send("w3")
    settled(session)
    assert len(line.sent) == sent
    assert line.sent[-1]["type"] == "comm_close"
    widget.close()


def test_two_views_of_one_session_agree(session: Session, copy_model: CopyModel) -> None:
    editor, workbench = PlanEditor(session), Workbench(session)
    ask(workbench, "choose", reference=copy_model("tiny"))
    for widget in (editor, workbench):
        wire(widget).until(lambda widget=widget: widget.snapshot["plan"])
        wire(widget).until(lambda widget=widget: widget.snapshot["plan"]["executable"])
    assert editor.snapshot["plan"]["bars"] == workbench.snapshot["plan"]["bars"]
    for widget in (editor, workbench):
        widget.close()


def test_a_widget_can_be_read_where_none_can_be_drawn(
    widget: SessionWidget, session: Session
) -> None:
    bundle = widget._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert data["text/plain"].startswith(f"No model chosen\n{type(widget).__name__}, as it was on ")
    assert "No model chosen" in data["text/html"]
    assert "<script" not in data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in data


@pytest.mark.parametrize("kind", WIDGETS, ids=lambda kind: kind.__name__)
def test_each_widget_has_its_own_bundle_and_style(kind: type[SessionWidget]) -> None:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()
    for served, suffix in ((kind._esm, ".js"), (kind._css, ".css")):
        bundle = STATIC / f"{name}{suffix}"
        assert bundle.is_file(), "`make bundle` builds it"
        assert str(served) == bundle.read_text(encoding="utf-8")
        assert len(str(served)) > 100


def test_widgets_without_a_session_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Chat(), ModelPicker()
    assert one.session is other.session is default_session()
    for widget in (one, other):
        widget.close()
