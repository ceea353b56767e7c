"""Fixtures around a real tiny model: folders of it, and a manager that loads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ollm_widgets import GenerationConfig, RuntimeManager, Session
from tests.session.gates import GatedLoader

CopyModel = Callable[[str], str]
LONG = GenerationConfig(max_new_tokens=200)


@pytest.fixture(autouse=True, scope="session")
def one_thread_a_model() -> Iterator[None]:
    """Tiny models gain nothing from more, and lose much where the machine is shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of managed models, so that lists do not depend on this machine."""
    folder = tmp_path / "managed"
    folder.mkdir()
    monkeypatch.setenv("OLLM_MODELS_DIR", str(folder))
    return folder


@pytest.fixture
def copy_model(saved_llama: Path, tmp_path: Path) -> CopyModel:
    """Copies the tiny model under a name; gives the reference of the copy."""

    def copy(name: str) -> str:
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(saved_llama, folder)
        return f"path:{folder}"

    return copy


@pytest.fixture
def loader() -> GatedLoader:
    return GatedLoader()


@pytest.fixture
def manager(loader: GatedLoader) -> Iterator[RuntimeManager]:
    manager = RuntimeManager(loader, busy_wait_s=0.3)
    yield manager
    loader.open()
    manager.unload_all(force=True)


@pytest.fixture
def session(manager: RuntimeManager) -> Iterator[Session]:
    session = Session(manager, LONG)
    yield session
    session.close()
