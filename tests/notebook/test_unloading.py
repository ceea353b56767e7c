from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets import RuntimeBusyError, RuntimeConfig, RuntimeManager
from ollm_widgets.notebook.unloading import Unloading


@pytest.fixture
def manager(saved_llama: Path, tmp_path: Path) -> Iterator[RuntimeManager]:
    """A manager with two tiny models in memory, a and b, that waits for nobody for long."""
    manager = RuntimeManager(busy_wait_s=0.2)
    for name in ("a", "b"):
        folder = shutil.copytree(saved_llama, tmp_path / name)
        manager.acquire(RuntimeConfig(f"path:{folder}", device="cpu")).release()
    yield manager
    manager.close()


def ids(manager: RuntimeManager) -> list[str]:
    return [resident.id for resident in manager.residents()]


def test_an_idle_model_goes_without_a_word_but_its_bytes(
    manager: RuntimeManager, capsys: pytest.CaptureFixture[str]
) -> None:
    Unloading(manager, force=False).one("a")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("a: ")
    assert line.endswith(" of RAM freed.")


def test_while_it_waits_it_says_why_how_long_and_what_else_could_be_done(
    manager: RuntimeManager, capsys: pytest.CaptureFixture[str]
) -> None:
    with manager.borrow("a"), pytest.raises(RuntimeBusyError):
        Unloading(manager, force=False).one("a")
    assert capsys.readouterr().out == (
        "a is in use; this waits up to 0.2 s for it. --force would stop it.\n"
    )


def test_with_force_nothing_is_waited_for(
    manager: RuntimeManager, capsys: pytest.CaptureFixture[str]
) -> None:
    with manager.borrow("a"):
        Unloading(manager, force=True).one("a")
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert ids(manager) == ["b"]


def test_of_all_those_that_are_idle_go_although_one_stays_busy(
    manager: RuntimeManager, capsys: pytest.CaptureFixture[str]
) -> None:
    with manager.borrow("a"), pytest.raises(RuntimeBusyError, match="a is still busy"):
        Unloading(manager, force=False).everything()
    assert ids(manager) == ["a"]
    assert capsys.readouterr().out.startswith("b: ")


def test_nothing_to_unload_is_said(
    manager: RuntimeManager, capsys: pytest.CaptureFixture[str]
) -> None:
    manager.unload_all()
    Unloading(manager, force=False).everything()
    assert capsys.readouterr().out == "No model was loaded.\n"
