from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ollm_widgets.errors import (
    Cancelled,
    ManagedModelDownloadError,
    OllmError,
)
from ollm_widgets.models import crew
from ollm_widgets.models.completeness import find_gaps
from ollm_widgets.models.download import download
from tests.hub.contents import Home, both_homes, content_of, folder_at, place, runtime_content
from tests.hub.fixtures import WEIGHTS
from tests.hub.repos import FaultKind
from tests.hub.server import HubServer

pytestmark = pytest.mark.usefixtures("private_places", "quick_retries")


@both_homes
def test_a_stopped_download_goes_on_where_it_stopped(
    hub: HubServer,
    origin: Path,
    tmp_path: Path,
    home: Home,
) -> None:
    hub.add("org/tiny", origin)
    hub.fail("drop", WEIGHTS, at_byte=700)
    hub.fail("status", WEIGHTS, status=503, times=20)
    with pytest.raises(ManagedModelDownloadError, match=WEIGHTS) as caught:
        download("org/tiny", models_dir=place(home, tmp_path))
    assert [gap.split(":")[0] for gap in caught.value.gaps] == [WEIGHTS]
    assert "700 of" in caught.value.gaps[0]
    assert caught.value.folder == folder_at(home, tmp_path, hub)
    hub.release()
    hub.log.clear()
    folder = download("org/tiny", models_dir=place(home, tmp_path))
    assert content_of(folder) == runtime_content(origin)
    assert {request.range for request in hub.fetched()} == {"bytes=700-"}
    assert all(WEIGHTS in request.path for request in hub.fetched())


@both_homes
@pytest.mark.parametrize("name", ["tokenizer.json", WEIGHTS, "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("drop", {"at_byte": 0}),
        ("drop", {"at_byte": 99}),
        ("short", {"at_byte": 99}),
        ("short", {"at_byte": 0}),
        ("long", {}),
        ("changed", {}),
        ("status", {"status": 500}),
        ("status", {"status": 503}),
        ("status", {"status": 429, "retry_after": "0"}),
        ("status", {"status": 416}),
    ],
)
def test_one_fault_is_survived_and_many_are_an_error_that_names_the_file(
    hub: HubServer,
    origin: Path,
    tmp_path: Path,
    home: Home,
    name: str,
    kind: FaultKind,
    details: dict[str, object],
) -> None:
    models_dir = place(home, tmp_path)
    hub.add("org/tiny", origin)
    hub.fail(kind, name, **details)
    assert content_of(download("org/tiny", models_dir=models_dir)) == runtime_content(origin)
    hub.add("org/other", origin)
    hub.fail(kind, name, times=1_000, **details)
    folder = folder_at(home, tmp_path, hub, "org/other")
    # A reply that is cut after some bytes brings some at each attempt, and so ends well.
    if (kind, details.get("at_byte")) not in (("drop", 99), ("short", 99), ("long", None)):
        with pytest.raises(ManagedModelDownloadError, match=name) as caught:
            download("org/other", models_dir=models_dir)
        assert "\n" not in str(caught.value)
        assert find_gaps(folder)
        hub.release()
    folder = download("org/other", models_dir=models_dir)
    assert content_of(folder) == runtime_content(origin)


def test_random_schedules_of_faults_end_whole_or_with_an_error(
    hub: HubServer,
    origin: Path,
    tmp_path: Path,
) -> None:
    kinds: list[FaultKind] = ["drop", "short", "long", "changed", "status"]
    names = [*runtime_content(origin), ""]
    hub.add("org/tiny", origin)
    outcomes = {"whole": 0, "error": 0}
    for seed in range(250):
        chance = random.Random(seed)
        home = chance.choice(["cache", "managed"])
        models_dir = tmp_path / f"m{seed}" if home == "managed" else None
        cache = tmp_path / f"c{seed}"

        def fetch() -> Path:
            return download("org/tiny", models_dir=models_dir, cache_dir=cache)  # noqa: B023

        for _ in range(chance.randrange(1, 10)):
            hub.fail(
                chance.choice(kinds),
                chance.choice(names),
                at_byte=chance.randrange(0, 4_000),
                status=chance.choice([429, 500, 502, 503]),
                retry_after="0",
                times=chance.choice([1, 2, 30]),
            )
        try:
            folder = fetch()
            outcomes["whole"] += 1
        except ManagedModelDownloadError:
            outcomes["error"] += 1
            folder = (
                models_dir / "org--tiny"
                if models_dir
                else cache / "models--org--tiny" / "snapshots" / hub.repos["org/tiny"].commit
            )
            assert find_gaps(folder)
            hub.release()
            assert fetch() == folder
        assert content_of(folder) == runtime_content(origin), f"seed {seed}"
        hub.release()
        shutil.rmtree(models_dir or cache)
    assert min(outcomes.values()) > 20


@both_homes
def test_a_cancel_at_any_moment_returns_at_once_and_is_resumed_later(
    hub: HubServer,
    origin: Path,
    tmp_path: Path,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The server is silent for longer than any farewell: a short one shows the same.
    monkeypatch.setattr(crew, "_FAREWELL_S", 0.05)
    hub.add("org/tiny", origin)
    chance = random.Random(0)
    for number in range(25):
        models_dir = tmp_path / f"m{number}" if home == "managed" else None
        cache = tmp_path / f"c{number}"
        cancel = threading.Event()
        fault = hub.fail(
            "wait", chance.choice([*runtime_content(origin)]), at_byte=chance.randrange(200)
        )
        after = chance.randrange(12)
        seen: list[object] = []

        def notice(_request: object) -> None:
            seen.append(1)  # noqa: B023
            if len(seen) > after:  # noqa: B023
                cancel.set()  # noqa: B023

        hub.on_request = notice
        ended = threading.Event()
        errors: list[OllmError] = []

        def fetch() -> None:
            try:
                download("org/tiny", models_dir=models_dir, cache_dir=cache, cancel=cancel)  # noqa: B023
            except OllmError as error:
                errors.append(error)  # noqa: B023
            ended.set()  # noqa: B023

        threading.Thread(target=fetch, daemon=True).start()
        # Where the server falls silent before that, cancel once nothing else is asked for.
        noticed = -1
        while not (cancel.wait(0.05) or ended.is_set()) and (
            noticed < len(seen) or not fault.reached.is_set()
        ):
            noticed = len(seen)
        cancel.set()
        # The server is silent for longer than this.
        assert ended.wait(3)
        assert all(isinstance(error, Cancelled) for error in errors)
        hub.on_request = None
        fault.release.set()
        hub.release()
        folder = download("org/tiny", models_dir=models_dir, cache_dir=cache)
        assert content_of(folder) == runtime_content(origin)


@both_homes
def test_two_processes_download_the_same_model_once(
    hub: HubServer,
    origin: Path,
    tmp_path: Path,
    home: Home,
) -> None:
    hub.add("org/tiny", origin)
    argument = str(place(home, tmp_path) or "")
    script = (
        "import sys; from pathlib import Path\n"
        "from ollm_widgets.models.download import download\n"
        "print(download('org/tiny', models_dir=Path(sys.argv[1]) if sys.argv[1] else None))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "HF_HUB_DISABLE_XET": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, argument],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    found = {process.communicate(timeout=60)[0].strip() for process in both}
    assert found == {str(folder_at(home, tmp_path, hub))}
    assert content_of(Path(found.pop())) == runtime_content(origin)
    names = [request.path for request in hub.fetched() if not request.path.startswith("/cdn")]
    assert len(names) == len(set(names))
