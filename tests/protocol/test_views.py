from __future__ import annotations

import json

import msgspec
import pytest

from ollm_widgets import RuntimeClosedError, Session
from ollm_widgets.protocol.schema import protocol_schema
from ollm_widgets.protocol.snapshot import Snapshot
from ollm_widgets.protocol.views import view_memory, view_snapshot
from tests.session.tiny import CopyModel
from tests.session.waiting import load, settled


def test_a_snapshot_is_what_the_schema_says_at_every_stage(
    session: Session, copy_model: CopyModel
) -> None:
    def check() -> None:
        snapshot = view_snapshot(session, 3)
        plain = json.loads(json.dumps(msgspec.to_builtins(snapshot), allow_nan=False))
        assert msgspec.convert(plain, Snapshot) == snapshot
        assert snapshot.seq == 3

    check()
    session.choose(copy_model("tiny"))
    check()
    load(session, copy_model("tiny"))
    check()
    session.send("w3")
    settled(session)
    check()
    session.edit("context_tokens", "many")
    check()


def test_a_runtime_that_leaves_while_it_is_looked_at_is_not_shown(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(session, copy_model("tiny"))
    runtime = session.runtime
    assert runtime is not None
    measure = runtime.memory

    def close_first() -> object:
        monkeypatch.undo()
        raise RuntimeClosedError("tiny was closed.")

    monkeypatch.setattr(runtime, "memory", close_first)
    assert view_memory(session).items == ()
    assert runtime.memory() == measure()
    assert len(view_memory(session).items) == 1


def test_the_schema_names_every_message() -> None:
    import jsonschema

    schema = protocol_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"AnyEvent", "AnyReply", "AnyCommand", "Snapshot"} <= schema["$defs"].keys()
