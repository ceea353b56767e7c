"""Each layout, with small files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets.kv.layouts.placed import PlacedRecords
from tests.kv.layouts.records import SMALL


@pytest.fixture(params=sorted(SMALL))
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PlacedRecords]:
    """An empty layout over `tmp_path`, one after the other."""
    opened = SMALL[request.param](tmp_path, "w")
    yield opened
    opened.close(delete=True)
