"""Tiny models for the tests of the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.tiny import tiny_llama


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Four models of different weights."""
    folder = tmp_path_factory.mktemp("tiny")
    return tuple(tiny_llama(folder / f"tiny-{name}", seed) for seed, name in enumerate("abcd"))
