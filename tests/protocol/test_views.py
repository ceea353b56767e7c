from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from ollm_widgets import RuntimeClosedError, Session
from ollm_widgets.planning import selector
from ollm_widgets.planning.devices import Device, probe_machine
from ollm_widgets.protocol.schema import protocol_schema
from ollm_widgets.protocol.snapshot import Snapshot
from ollm_widgets.protocol.views import view_memory, view_plan, view_snapshot
from tests.session.tiny import CopyModel
from tests.session.waiting import choose, load, settled


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
    session.desk.edit("context_tokens", "many")
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


def test_each_of_several_gpus_has_a_bar_of_its_own(
    session: Session, copy_model: CopyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_gpus(free_bytes: int) -> None:
        gpus = tuple(
            Device("cuda", f"cuda:{number}", "Test GPU", free_bytes, free_bytes, True)
            for number in range(2)
        )
        monkeypatch.setattr(selector, "probe_machine", lambda: replace(machine, accelerators=gpus))
        monkeypatch.setattr(session.manager.loader.selector, "measure", lambda device: None)

    machine = probe_machine()
    has_gpus(8 * 1024**3)
    choose(session, copy_model("tiny"))
    assert session.plan is not None
    alone = session.plan.memory.gpus[0]
    has_gpus(512 * 1024**2 + alone.needed_bytes - alone.layers_bytes // 2)
    choose(session, copy_model("other"))
    view = view_plan(session)
    assert view is not None
    assert view.executable
    assert [(bar.place, bar.label) for bar in view.bars] == [
        ("gpu", "GPU 0 (Test GPU)"),
        ("gpu", "GPU 1 (Test GPU)"),
        ("ram", "RAM"),
    ]
    assert all("1 layer" in [one.label for one in bar.segments] for bar in view.bars[:2])
    assert "across cuda:0 and cuda:1, 1 layer each" in view.reason


def test_the_schema_names_every_message() -> None:
    import jsonschema

    schema = protocol_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"AnyEvent", "AnyReply", "AnyCommand", "Snapshot"} <= schema["$defs"].keys()
