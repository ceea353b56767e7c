"""The shared file: what it may hold, who may write it at once, and what comes out of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollm_widgets.planning.devices import Device
from ollm_widgets.planning.profile.bandwidth import Bandwidth, known_bandwidth
from ollm_widgets.planning.profile.disk import known_disk_speeds
from ollm_widgets.planning.profile.identity import device_key, disk_key
from ollm_widgets.planning.profile.machine import remembered_profile
from ollm_widgets.planning.profile.remembered import ProfileFile, profile_file
from tests.planning.profile.conftest import another_process

CPU = Device("cpu", "cpu", "A CPU", 1 << 30, 1, False)
FIELDS = (*Bandwidth.__slots__, "another")

numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-(10**400), 10**400),
    st.sampled_from([1e10, 1, 0, -1, 5e-324, 1e308]),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
entries = st.one_of(
    anything,
    st.fixed_dictionaries(
        {
            "speeds": st.one_of(
                anything, st.dictionaries(st.sampled_from(FIELDS), st.one_of(numbers, anything))
            )
        },
        optional={"measured_at": st.one_of(numbers, anything)},
    ),
)
in_any_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def write(folder: Path, text: bytes) -> None:
    another_process()
    (folder / "machine-profile.json").write_bytes(text)


def assert_sound(folder: Path) -> None:
    """Nothing that is read from the file can make a prediction infinite, negative or a crash."""
    device, disk = known_bandwidth(CPU), known_disk_speeds(folder)
    for found in (device, disk):
        for name in () if found is None else found.__slots__:
            value = getattr(found, name)
            assert value is None or (type(value) is float and math.isfinite(1e13 / value))
            assert value is None or value > 0
    assert "Measured speeds" in str(remembered_profile())


@in_any_folder
@given(device=entries, disk=entries)
def test_no_entry_gives_a_number_that_is_none(folder: Path, device: Any, disk: Any) -> None:
    key = disk_key(folder)
    document = {
        "version": 1,
        "devices": {device_key(CPU): device},
        "disks": {key: disk, f"x{key}": disk},
    }
    try:
        text = json.dumps(document)
    except ValueError:  # an integer longer than Python writes
        return
    write(folder, text.encode())
    assert_sound(folder)


@in_any_folder
@given(document=st.one_of(st.binary(max_size=200), anything.map(lambda each: repr(each).encode())))
def test_no_bytes_crash_a_plan(folder: Path, document: bytes) -> None:
    write(folder, document)
    assert_sound(folder)
    profile_file().remember("devices", device_key(CPU), {"read_bytes_per_s": 1, "flops_per_s": 2})
    another_process()
    assert known_bandwidth(CPU) == Bandwidth(1.0, 2.0)


@pytest.mark.parametrize(
    "damage",
    [
        b"[" * 100_000,
        b'{"version": 1, "devices": {"' + b"a" * (2 << 20) + b'": 1}}',
        b'{"version": 99, "devices": {}}',
        b'{"version": 1, "devices": [1], "disks": 7}',
        b"\x00\xff",
    ],
)
def test_deep_long_and_strange_files_count_as_not_measured(folder: Path, damage: bytes) -> None:
    write(folder, damage)
    assert profile_file().recall_all("devices") == {}
    assert known_bandwidth(CPU) is None


def test_a_pipe_of_that_name_keeps_nobody_waiting(folder: Path) -> None:
    os.mkfifo(folder / "machine-profile.json")
    assert known_bandwidth(CPU) is None


def test_the_oldest_are_forgotten_when_there_are_many(folder: Path) -> None:
    file = profile_file()
    for number in range(70):
        file.remember("disks", f"disk {number}", {"disk_bytes_per_s": 1e9})
    kept = ProfileFile(file.path).recall_all("disks")
    assert len(kept) == 64
    assert "disk 69" in kept
    assert "disk 0" not in kept


def test_what_others_have_written_stays(folder: Path) -> None:
    file = profile_file()
    ProfileFile(file.path).remember("devices", "theirs", {"read_bytes_per_s": 1e9})
    file.remember("devices", "ours", {"read_bytes_per_s": 2e9})
    file.remember("disks", "a disk", {"disk_bytes_per_s": 3e9})
    assert set(ProfileFile(file.path).recall_all("devices")) == {"theirs", "ours"}
    assert set(ProfileFile(file.path).recall_all("disks")) == {"a disk"}


def test_a_session_keeps_to_the_figures_that_it_has_seen(folder: Path) -> None:
    file = profile_file()
    file.remember("devices", "a", {"read_bytes_per_s": 1e9})
    ProfileFile(file.path).remember("devices", "a", {"read_bytes_per_s": 2e9})
    seen = file.recall("devices", "a")
    assert seen is not None
    assert seen.speeds == {"read_bytes_per_s": 1e9}


WRITER = """
import sys
from ollm_widgets.planning.profile.remembered import profile_file
for number in range(8):
    profile_file().remember("devices", f"{sys.argv[1]}-{number}", {"read_bytes_per_s": 1e9})
"""


def test_processes_that_write_at_once_lose_nothing(folder: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, name]) for name in ("a", "b", "c", "d")
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    found = profile_file().recall_all("devices")
    assert set(found) == {f"{name}-{number}" for name in "abcd" for number in range(8)}
    assert not list(folder.glob("*.part"))


def test_one_who_hangs_while_measuring_keeps_others_from_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import filelock

    from ollm_widgets.planning.profile import remembered

    monkeypatch.setattr(remembered, "_WAIT_S", 0.1)
    with filelock.FileLock(f"{profile_file().path}.lock"):
        done = threading.Event()

        def remember() -> None:
            profile_file().remember("devices", "a", {"read_bytes_per_s": 1e9})
            done.set()

        threading.Thread(target=remember).start()
        assert done.wait(30)
    assert set(ProfileFile(profile_file().path).recall_all("devices")) == {"a"}


def test_it_says_when_that_was(folder: Path) -> None:
    before = time.time()
    profile_file().remember("devices", "a", {"read_bytes_per_s": 1e9})
    another_process()
    entry = profile_file().recall("devices", "a")
    assert entry is not None
    assert before <= entry.measured_at <= time.time()
