from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ollm_widgets import ConfigError, RuntimeConfig, RuntimeManager
from ollm_widgets.notebook.options import OPTIONS, change_option, list_options, value_text
from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.session.kernel_manager import KernelCluster
from ollm_widgets.settings import cluster_setting
from tests.session.one_node import OneNode


@pytest.fixture
def manager() -> RuntimeManager:
    return RuntimeManager()


def rows(manager: RuntimeManager) -> dict[str, tuple[str, ...]]:
    return {row.cells[0]: row.cells[1:] for row in list_options(manager).table().rows}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_LOADED", "IDLE_TIMEOUT", "BUSY_TIMEOUT", "BUSY_WAIT", "MEMORY_PRESSURE"):
        monkeypatch.delenv(f"OLLM_{name}", raising=False)
    monkeypatch.delenv("OLLM_DEMOTE", raising=False)
    monkeypatch.delenv("OLLM_CLUSTER", raising=False)


def test_every_option_is_shown_with_its_value_where_it_comes_from_and_what_it_means(
    manager: RuntimeManager,
) -> None:
    shown = rows(manager)
    assert tuple(shown) == OPTIONS
    assert shown["idle_timeout"][:2] == ("15 min", "default")
    assert shown["busy_timeout"][:2] == ("never", "default")
    assert shown["pressure"][:2] == (f"{ResidencyOptions().pressure:.0%}", "default")
    assert all(meaning for _value, _source, meaning in shown.values())


def test_what_the_environment_says_is_shown_as_its(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLM_MAX_LOADED", "2")
    monkeypatch.setenv("OLLM_DEMOTE", "0")
    shown = rows(RuntimeManager())
    assert shown["max_loaded"][:2] == ("2", "environment")
    assert shown["demotes"][:2] == ("off", "environment")
    assert shown["pressure"][1] == "default"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("max_loaded", "1", "max_loaded is 1 now."),
        ("max_loaded", "none", "max_loaded is none now."),
        ("idle_timeout", "30m", "idle_timeout is 30 min now."),
        ("idle_timeout", "0", "idle_timeout is never now."),
        ("busy_wait", "0", "busy_wait is 0 ms now."),
        ("pressure", "80%", "pressure is 80% now."),
        ("demotes", "off", "demotes is off now."),
    ],
)
def test_an_option_is_changed_live_and_the_change_is_said(
    manager: RuntimeManager, name: str, text: str, says: str
) -> None:
    assert change_option(manager, name, text) == says
    value, source, _meaning = rows(manager)[name]
    assert says == f"{name} is {value} now."
    assert source == ("default" if text == "none" else "set here")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [("max_loaded", "many", "whole number"), ("patience", "9", "is no option")],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    manager: RuntimeManager, name: str, text: str, says: str
) -> None:
    before = manager.options
    with pytest.raises(ConfigError, match=says):
        change_option(manager, name, text)
    assert manager.options == before


def test_it_is_said_which_cluster_is_used_and_who_says_so(
    manager: RuntimeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows(manager)["cluster"][:2] == ("none", "default")
    assert rows(RuntimeManager(cluster=KernelCluster()))["cluster"][:2] == ("local", "default")
    assert rows(RuntimeManager(cluster=OneNode()))["cluster"][:2] == ("its own", "set here")
    monkeypatch.setenv("OLLM_CLUSTER", "10.0.0.1:6379")
    of_the_environment = RuntimeManager(cluster=KernelCluster(cluster_setting()))
    assert rows(of_the_environment)["cluster"][:2] == ("10.0.0.1:6379", "environment")
    assert change_option(of_the_environment, "cluster", "AUTO") == (
        'cluster is auto now; device="ray" runs a model there.'
    )
    assert rows(of_the_environment)["cluster"][:2] == ("auto", "set here")


def test_a_text_that_names_no_cluster_is_refused(manager: RuntimeManager) -> None:
    with pytest.raises(ConfigError, match="names no Ray cluster"):
        change_option(manager, "cluster", "ray://10.0.0.1:10001")
    assert manager.cluster is None


def test_no_wait_is_no_never() -> None:
    assert value_text("busy_wait_s", 0.0) == "0 ms"
    assert value_text("pressure", 0.0) == "never"


def test_a_limit_below_what_is_in_memory_says_what_becomes_of_the_rest(
    manager: RuntimeManager, saved_llama: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        folder = shutil.copytree(saved_llama, tmp_path / name)
        manager.acquire(RuntimeConfig(f"path:{folder}", device="cpu")).release()
    assert change_option(manager, "max_loaded", "1") == (
        "max_loaded is 1 now. 2 models are in memory; the least recently used leave with the next "
        "load."
    )
    assert change_option(manager, "max_loaded", "2") == "max_loaded is 2 now."
    manager.close()
