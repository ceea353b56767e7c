"""``%ollm doctor`` in a real kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from ollm_widgets.notebook import doctor
from ollm_widgets.notebook.completion import suggest
from tests.notebook.conftest import Kernel


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel with a cache folder of its own."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(
        cwd=str(Path(__file__).parents[2]),
        env=os.environ | {"OLLM_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))},
    )
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    kernel = Kernel(manager, client)
    assert kernel.run("%load_ext ollm").status == "ok"
    yield kernel
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_the_report_is_the_cells_result_and_measuring_fills_it(patient: Kernel) -> None:
    outcome = patient.run("report = %ollm doctor\nreport")
    assert outcome.status == "ok", outcome.error
    (data,) = outcome.results
    assert data["text/plain"].startswith("ollm-widgets on this machine [")
    assert "torch" in data["text/html"]
    assert "Nothing yet" in data["text/plain"]
    measured = patient.run("%ollm doctor --measure")
    assert measured.status == "ok", measured.error
    assert "Measure the disk (" in measured.printed
    assert measured.printed.rstrip().endswith("Measured.")
    (data,) = measured.results
    assert "reads its memory" in data["text/plain"]
    assert "Nothing yet" not in data["text/plain"]


def test_an_interrupt_ends_the_measuring_and_shows_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(stage: str, _done: int, _total: int) -> None:
        if stage == "Measure the disk":
            raise KeyboardInterrupt

    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(doctor, "_show", interrupted)
    report = doctor.examine(measure=True)
    assert "Measuring was interrupted." in capsys.readouterr().out
    assert report.profile.bandwidth("cpu") is not None
    assert report.profile.disks == ()


def test_what_it_does_not_know_is_refused(patient: Kernel) -> None:
    wrong = patient.run("%ollm doctor smollm2-135m")
    assert wrong.error.startswith("UsageError: ")


def test_its_option_is_completed() -> None:
    assert "doctor" in suggest("%ollm ", {})[1]
    assert suggest("%ollm doctor --m", {})[1] == ["--measure"]
    assert suggest("%ollm doctor ", {})[1] == []
