"""A process that keeps far more than its budget in a tiered cache grows by the budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ollm_widgets.planning.kv_presets import KV_PRESETS
from tests.kv.tiers.growing import BUDGET, MODEL

TIERED = [preset.strategy_id for preset in KV_PRESETS if preset.uses_disk]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")


@dataclass(frozen=True, slots=True)
class Measured:
    """What each case has taken and where it kept it; what went wrong is in `errors`."""

    root: Path
    figures: dict[str, dict[str, int]]
    errors: str

    def of(self, case: str) -> dict[str, int]:
        assert case in self.figures, self.errors
        return self.figures[case]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    root = tmp_path_factory.mktemp("growing")
    done = subprocess.run(
        [sys.executable, "-m", "tests.kv.tiers.growing", str(root), *TIERED, MODEL],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        # So that the C library gives what the model computes with back, as large as it comes.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
    )
    figures = dict(json.loads(line) for line in done.stdout.splitlines())
    return Measured(root, figures, done.stderr)


@pytest.mark.parametrize("strategy", TIERED)
def test_a_cache_of_six_times_its_budget_grows_by_the_budget(
    strategy: str, measured: Measured
) -> None:
    figures = measured.of(strategy)
    assert figures["held"] <= BUDGET
    assert figures["growth"] <= 1.2 * BUDGET
    assert figures["disk"] > BUDGET
    assert not list((measured.root / strategy).iterdir())


def test_a_model_whose_cache_is_twice_its_budget_grows_by_the_budget(measured: Measured) -> None:
    figures = measured.of(MODEL)
    assert figures["held"] <= BUDGET
    assert figures["growth"] <= 1.2 * BUDGET
    assert figures["disk"] > BUDGET
