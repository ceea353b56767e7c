from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets import ProtocolError, Session
from ollm_widgets.protocol.commands import AnyCommand
from ollm_widgets.protocol.inbox import decode_command
from ollm_widgets.protocol.views import view_snapshot
from tests.protocol.page import Message, Page, steady
from tests.session.tiny import CopyModel
from tests.session.waiting import choose, settled

GOLDEN = Path(__file__).parent / "golden"
COMMANDS: dict[str, Message] = {
    path.stem.removeprefix("command-"): json.loads(path.read_text(encoding="utf-8"))["message"]
    for path in sorted(GOLDEN.glob("command-*.json"))
}
NAMES = sorted(command.__struct_config__.tag for command in get_args(AnyCommand))

# Half a surrogate pair is text to JSON and to Python, and cannot be sent as UTF-8.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | ANY_JSON,
        "id": st.text(min_size=1, max_size=8) | ANY_JSON,
        "name": st.sampled_from(NAMES) | ANY_JSON,
        "body": st.just({}) | ANY_JSON,
        "more": ANY_JSON,
    },
)


def state(session: Session) -> Message:
    snapshot: Message = msgspec.to_builtins(view_snapshot(session, 0))
    return steady(snapshot)


def sound(reply: Message, content: object) -> None:
    """Check what every reply promises, whatever it answers."""
    sent = content.get("id") if isinstance(content, dict) else None
    if isinstance(sent, str) and len(sent) <= 128 and sent.isprintable():
        assert reply["id"] == sent
    elif not isinstance(sent, str):
        assert reply["id"] == ""
    if reply["kind"] == "error":
        assert reply["body"]["code"] != "internal"
        assert reply["body"]["message"]
    assert len(json.dumps(reply)) < 20_000


def refused(page: Page, session: Session, content: object) -> None:
    before = state(session)
    (reply,) = page.say(content)
    assert reply["kind"] == "error"
    assert reply["body"]["code"] == "bad-message"
    sound(reply, content)
    assert state(session) == before


@pytest.fixture
def page(session: Session, copy_model: CopyModel):  # type: ignore[no-untyped-def]
    choose(session, copy_model("tiny"))
    with Page(session) as page:
        yield page


def test_any_json_at_all_gets_one_reply_and_changes_nothing(page: Page, session: Session) -> None:
    @settings(deadline=None, max_examples=150)
    @given(ANY_JSON)
    def check(content: object) -> None:
        refused(page, session, content)

    check()


def test_what_looks_like_a_command_gets_one_reply(page: Page, session: Session) -> None:
    @settings(deadline=None, max_examples=300)
    @given(NEARLY)
    def check(content: Message) -> None:
        try:
            decode_command(content)
        except ProtocolError:
            valid = False
        else:
            valid = True
        (reply,) = page.say(content)
        sound(reply, content)
        assert valid or reply["body"]["code"] == "bad-message"

    check()
    settled(session)


BODIES = {
    "search": {"text": ANY_TEXT},
    "choose": {"reference": ANY_TEXT},
    "edit": {"field": st.sampled_from(["backend", "context_tokens"]), "value": ANY_TEXT},
    "place": {"gpu_layers": ANY_TEXT, "ram_layers": ANY_TEXT, "settled": st.booleans()},
    "preset": {"preset": st.sampled_from(["fastest", "least-gpu-memory", "none"])},
    "undo": {},
    "redo": {},
    "unload": {"runtime": ANY_TEXT},
    "pin": {"runtime": ANY_TEXT, "pinned": st.booleans()},
    "use": {"runtime": ANY_TEXT},
    "send": {"text": ANY_TEXT},
    "retry": {"turn": ANY_TEXT},
    "edit-turn": {"turn": ANY_TEXT, "text": ANY_TEXT},
    "show": {"turn": ANY_TEXT},
    "instruct": {"text": ANY_TEXT},
    "sample": {"field": st.sampled_from(["temperature", "stop", "stream"]), "value": ANY_TEXT},
    "sampling-preset": {"preset": st.sampled_from(["exact", "creative", "none"])},
    "attach": {"upload": ANY_TEXT, "name": ANY_TEXT, "last": st.booleans()},
    "detach": {"attachment": ANY_TEXT},
    "export": {"form": st.sampled_from(["markdown", "python", "html"])},
}


def test_any_text_in_a_command_is_accepted_or_refused_with_a_reason(
    page: Page, session: Session
) -> None:
    @settings(deadline=None, max_examples=200)
    @given(st.sampled_from(sorted(BODIES)), st.data())
    def check(name: str, data: st.DataObject) -> None:
        body = {key: data.draw(value) for key, value in BODIES[name].items()}
        content = {"v": 1, "id": "x", "name": name, "body": body}
        (reply,) = page.say(content)
        sound(reply, content)

    check()
    settled(session)
    assert page.ask("search", text="")["kind"] == "ack"


# ---------------------------------------------------------------------- broken commands


def places(message: Message) -> list[tuple[str, ...]]:
    return [(key,) for key in message] + [("body", key) for key in message["body"]]


def changed(message: Message, place: tuple[str, ...], value: object) -> Message:
    message = copy.deepcopy(message)
    holder = message
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return message


def dropped(message: Message, place: tuple[str, ...]) -> Message:
    message = changed(message, place, None)
    holder: Any = message if len(place) == 1 else message["body"]
    del holder[place[-1]]
    return message


@pytest.mark.parametrize("name", NAMES)
def test_a_command_with_a_key_too_few_or_too_many_is_refused(
    page: Page, session: Session, name: str
) -> None:
    command = COMMANDS[name]
    for place in places(command):
        if place != ("body",) or command["body"]:  # a command that carries nothing may say so
            refused(page, session, dropped(command, place))
    refused(page, session, command | {"more": 1})
    refused(page, session, changed(command, ("body", "more"), 1))
    refused(page, session, changed(command, ("body", "\ud800"), 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_command_with_a_value_of_another_kind_is_refused(
    page: Page, session: Session, name: str
) -> None:
    command = COMMANDS[name]
    others = (None, -1, 2, 0.5, float("nan"), float("inf"), [], ["x"], {"x": 1}, "\udfff")
    for place in places(command):
        for other in others:
            refused(page, session, changed(command, place, other))
    for other in ("", True, "x" * 129):
        refused(page, session, changed(command, ("v",), "1" if other is True else other))
        refused(page, session, changed(command, ("id",), other))


@pytest.mark.parametrize(
    ("name", "key", "limit"),
    [
        ("search", "text", 4_096),
        ("choose", "reference", 4_096),
        ("edit", "value", 64),
        ("place", "gpu_layers", 16),
        ("place", "ram_layers", 16),
        ("unload", "runtime", 128),
        ("pin", "runtime", 128),
        ("use", "runtime", 128),
        ("send", "text", 1_000_000),
        ("retry", "turn", 128),
        ("edit-turn", "turn", 128),
        ("edit-turn", "text", 1_000_000),
        ("show", "turn", 128),
        ("instruct", "text", 1_000_000),
        ("sample", "value", 4_096),
        ("attach", "upload", 128),
        ("attach", "name", 1_024),
        ("detach", "attachment", 128),
    ],
)
def test_text_beyond_its_limit_is_refused_and_up_to_it_is_not(
    page: Page, session: Session, name: str, key: str, limit: int
) -> None:
    refused(page, session, changed(COMMANDS[name], ("body", key), "x" * (limit + 1)))
    decode_command(changed(COMMANDS[name], ("body", key), "x" * limit))


@pytest.mark.parametrize("key", ["name", "x" * 100_000])
def test_what_is_quoted_of_a_message_is_short(page: Page, session: Session, key: str) -> None:
    refused(page, session, COMMANDS["load"] | {key: "y" * 100_000})


def test_a_page_of_another_version_is_told_to_run_the_cell_again(page: Page) -> None:
    for version in (0, 2, "1", None, 1e300):
        (reply,) = page.say({"v": version, "id": "x", "name": "hello", "body": {}})
        assert reply["id"] == "x"
        assert reply["body"]["hint"] == "Run the cell again."


def test_an_id_that_is_too_long_comes_back_cut(page: Page) -> None:
    (reply,) = page.say({"v": 1, "id": "x" * 1_000, "name": "hello", "body": {}})
    assert reply["kind"] == "error"
    assert reply["id"] == "x" * 128


def test_after_any_refusal_the_next_command_works(page: Page, session: Session) -> None:
    for content in (None, [], "hello", {"v": 1}, {"v": 1, "id": "x", "name": "explode"}):
        refused(page, session, content)
        assert page.ask("resync")["kind"] == "ack"
    page.until(lambda: page.events("snapshot"))


def test_a_mistake_in_a_handler_is_an_error_and_not_a_crash(
    page: Page, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    session.browser.search = lambda _text: 1 // 0  # type: ignore[method-assign, assignment, return-value]
    reply = page.ask("search", text="x")
    assert reply["body"]["code"] == "internal"
    assert "ZeroDivisionError" in reply["body"]["message"]
    assert "failed" in caplog.text
    del session.browser.search  # type: ignore[method-assign]
    assert page.ask("search", text="x")["kind"] == "ack"


# ---------------------------------------------------------------------- every command does its work


def test_a_whole_visit_by_commands_alone(session: Session, copy_model: CopyModel) -> None:
    with Page(session) as page:
        page.ask("hello")
        page.until(lambda: page.events("snapshot"))
        page.ask("choose", reference=copy_model("tiny"))
        page.until(lambda: page.drawn["plan"] and page.drawn["plan"]["executable"])
        page.ask("edit", field="context_tokens", value="128")
        page.until(lambda: "context_tokens=128" in page.drawn["plan"]["code"])
        page.ask("place", gpu_layers="", ram_layers="1", settled=True)
        page.until(lambda: page.drawn["plan"]["layers"]["ram_layers"] == 1)
        page.ask("preset", preset="fastest")
        page.until(lambda: "latency" in page.drawn["plan"]["code"])
        page.ask("undo")
        page.ask("undo")
        page.ask("redo")
        page.until(lambda: "offload_cpu_layers=1" in page.drawn["plan"]["code"])
        page.ask("place", gpu_layers="", ram_layers="", settled=True)
        page.until(lambda: "offload_cpu_layers" not in page.drawn["plan"]["code"])
        page.ask("load", anyway=False)
        page.until(lambda: page.drawn["loading"]["state"] == "loaded")
        page.until(lambda: [item["state"] for item in page.drawn["memory"]["items"]] == ["idle"])
        runtime = page.drawn["memory"]["items"][0]["id"]
        assert page.ask("pin", runtime=runtime, pinned=True)["kind"] == "ack"
        page.until(lambda: page.drawn["memory"]["items"][0]["pinned"])
        assert page.ask("use", runtime=runtime)["kind"] == "ack"

        def answered() -> bool:
            chat = page.drawn["chat"]
            return bool(chat["turns"]) and not chat["busy"]

        page.ask("send", text="w3")
        page.until(answered)
        question, answer = (turn["id"] for turn in page.drawn["chat"]["turns"])
        assert page.ask("retry", turn=answer)["kind"] == "ack"
        page.until(lambda: answered() and page.drawn["chat"]["turns"][1]["id"] != answer)
        assert page.drawn["chat"]["turns"][1]["versions"][0] == answer
        assert page.ask("show", turn=answer)["kind"] == "ack"
        page.until(lambda: page.drawn["chat"]["turns"][1]["id"] == answer)
        assert page.ask("instruct", text="w9")["kind"] == "ack"
        assert page.ask("sample", field="max_new_tokens", value="3")["kind"] == "ack"
        page.until(lambda: page.drawn["chat"]["instructions"]["text"] == "w9")
        exported = page.ask("export", form="markdown")
        assert exported["text"] == session.conversation.to_markdown()
        assert "## Instructions\n\nw9" in exported["text"]
        assert page.ask("edit-turn", turn=question, text="w4")["kind"] == "ack"
        page.until(lambda: answered() and page.drawn["chat"]["turns"][0]["text"] == "w4")
        assert page.ask("stop")["kind"] == "ack"
        page.ask("clear")
        page.until(lambda: not page.drawn["chat"]["turns"])
        assert page.ask("cancel")["kind"] == "ack"
        assert page.ask("unload", runtime=runtime, force=False)["kind"] == "ack"
        page.until(lambda: not page.drawn["memory"]["items"])
        assert not page.drawn["chat"]["can_send"]


def attach(page: Page, pieces: list[Any], name: str = "notes.txt") -> Message:
    """Send a file as a page does, each piece beside its command; gives the last reply."""
    for index, buffers in enumerate(pieces):
        body = {"upload": "u", "name": name, "last": index == len(pieces) - 1}
        command = {"v": 1, "id": f"piece-{index}", "name": "attach", "body": body}
        page.inbox.receive(command, buffers)
    page.until(lambda: page.replies(f"piece-{len(pieces) - 1}"))
    return page.replies(f"piece-{len(pieces) - 1}")[-1]


def test_a_file_comes_as_buffers_and_can_be_put_away(page: Page, session: Session) -> None:
    page.ask("hello")
    assert attach(page, [[b"one "], [memoryview(b"two")]])["kind"] == "ack"
    page.until(lambda: page.drawn["chat"]["tray"]["items"])
    (item,) = page.drawn["chat"]["tray"]["items"]
    assert (item["name"], item["size"]) == ("notes.txt", "7 B")
    assert session.conversation.tray.items[0].text == "one two"
    assert page.ask("detach", attachment=item["id"])["kind"] == "ack"
    page.until(lambda: not page.drawn["chat"]["tray"]["items"])


@pytest.mark.parametrize("buffers", [None, [], [b"a", b"b"], [b"x" * (4 * 1024**2 + 1)]])
def test_a_file_without_its_bytes_or_with_too_many_is_refused(
    page: Page, session: Session, buffers: Any
) -> None:
    reply = attach(page, [buffers])
    assert reply["body"]["code"] == "bad-message"
    assert session.conversation.tray.items == ()


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("show", {"turn": "turn-1"}, "bad-config"),
        ("load", {"anyway": False}, "bad-config"),
        ("reload", {}, "runtime-closed"),
        ("demote", {"runtime": "nothing"}, "runtime-closed"),
        ("ask", {"holder": "1"}, "runtime-closed"),
        ("edit", {"field": "backend", "value": ""}, "bad-config"),
        ("place", {"gpu_layers": "1", "ram_layers": "", "settled": True}, "bad-config"),
        ("preset", {"preset": "fastest"}, "bad-config"),
        ("choose", {"reference": " "}, "bad-reference"),
        ("choose", {"reference": "a\x00b"}, "bad-reference"),
        ("send", {"text": "w3"}, "runtime-closed"),
        ("retry", {"turn": "turn-1"}, "runtime-closed"),
        ("use", {"runtime": "nothing"}, "runtime-closed"),
        ("unload", {"runtime": "loading:tiny", "force": True}, "runtime-closed"),
        ("pin", {"runtime": "nothing", "pinned": True}, "runtime-closed"),
    ],
)
def test_what_cannot_be_done_now_says_what_to_do(
    session: Session, name: str, body: Message, code: str
) -> None:
    with Page(session) as page:
        reply = page.ask(name, **body)
        assert reply["kind"] == "error"
        assert reply["body"]["code"] == code
        assert reply["body"]["hint"]
