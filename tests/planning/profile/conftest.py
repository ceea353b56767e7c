"""A cache folder of its own, so that no test sees what was measured before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets.planning.profile import remembered


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path))
    yield tmp_path
    another_process()


def another_process() -> None:
    """Forget what this process has seen of the file."""
    remembered._file_at.cache_clear()
