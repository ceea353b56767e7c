from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from ollm_widgets.protocol.commands import AnyCommand, AnyReply
from ollm_widgets.protocol.events import AnyEvent
from ollm_widgets.protocol.inbox import decode_command
from ollm_widgets.protocol.snapshot import PROTOCOL_VERSION

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.json"))


def read(path: Path) -> tuple[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content.keys() == {"direction", "message"}
    return content["direction"], content["message"]


def decoded(direction: str, message: object) -> msgspec.Struct:
    if direction == "up":
        return decode_command(message)
    assert direction == "down"
    down: msgspec.Struct = msgspec.convert(message, AnyEvent | AnyReply)
    return down


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_message_is_understood_and_written_the_same_way(path: Path) -> None:
    direction, message = read(path)
    struct = decoded(direction, message)
    # As a message is sent: plain values, then JSON.
    assert json.loads(json.dumps(msgspec.to_builtins(struct), allow_nan=False)) == message
    assert message["v"] == PROTOCOL_VERSION


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_message_is_named_after_its_kind(path: Path) -> None:
    direction, message = read(path)
    group, _dash, kind = path.stem.partition("-")
    assert kind == message["name" if direction == "up" else "kind"]
    assert group == ("command" if direction == "up" else "event" if "seq" in message else "reply")


def test_every_kind_of_message_has_a_golden_one() -> None:
    kinds = {type(decoded(*read(path))) for path in FILES}
    assert kinds == {*get_args(AnyCommand), *get_args(AnyEvent), *get_args(AnyReply)}


def test_the_golden_snapshot_shows_every_part_with_something_in_it() -> None:
    _direction, message = read(GOLDEN / "event-snapshot.json")
    body = message["body"]
    assert body["models"]["items"]
    assert body["plan"]["fields"]
    assert body["plan"]["bars"]
    assert body["loading"]["stages"]
    assert body["capabilities"]["rows"]
    assert body["memory"]["items"]
    assert body["chat"]["turns"]
    assert body["seq"] == message["seq"]
