"""Fixtures that tests of the weights share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ollm_widgets.weights.packing import packing
from tests.models.architectures import Architecture
from tests.weights.streamed_models import save_lively


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing by more, and lose much to waiting where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Architecture], Path]:
    """The folder of an architecture's tiny checkpoint, saved once for the whole run."""
    root = tmp_path_factory.mktemp("lively")

    def folder(architecture: Architecture) -> Path:
        path = root / architecture.model_type
        return path if path.exists() else save_lively(architecture, path)

    return folder


@pytest.fixture
def packed_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of a few thousand weights be packed, for which it would not pay."""
    monkeypatch.setattr(packing, "_MIN_ELEMENTS", packing.BLOCK_ELEMENTS)
    monkeypatch.setattr(packing, "_WORTHWHILE", 2.0)
