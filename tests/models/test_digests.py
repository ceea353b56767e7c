from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from ollm_widgets.errors import Cancelled
from ollm_widgets.models.digests import content_digest, known_digest


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / "memory" / "digests.json"
    file.write_bytes(b"one")
    assert known_digest(file, memory) is None
    assert content_digest(file, memory) == hashlib.sha256(b"one").hexdigest()
    assert known_digest(file, memory) == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert known_digest(file, memory) is None
    assert content_digest(file, memory) == hashlib.sha256(b"two").hexdigest()


def test_a_damaged_memory_is_written_anew(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / "digests.json"
    file.write_bytes(b"one")
    memory.write_bytes(b"{ damaged")
    digest = content_digest(file, memory)
    assert known_digest(file, memory) == digest


def test_several_threads_remember_the_same_file(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / "digests.json"
    file.write_bytes(bytes(100_000))
    start = threading.Barrier(8)
    digests: list[str] = []

    def digest() -> None:
        start.wait()
        digests.append(content_digest(file, memory))

    threads = [threading.Thread(target=digest) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [hashlib.sha256(bytes(100_000)).hexdigest()] * 8
    assert [path.name for path in tmp_path.iterdir()].count("digests.json") == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_hashing_reports_bytes_and_can_be_cancelled(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / "digests.json"
    file.write_bytes(bytes(5_000_000))
    cancel = threading.Event()
    reports: list[tuple[str, int, int]] = []

    def progress(stage: str, done_bytes: int, total_bytes: int) -> None:
        reports.append((stage, done_bytes, total_bytes))
        cancel.set()

    with pytest.raises(Cancelled):
        content_digest(file, memory, progress, cancel)
    assert reports == [("Check GGUF", 4_194_304, 5_000_000)]
    assert known_digest(file, memory) is None
