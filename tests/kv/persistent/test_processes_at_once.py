"""Several processes on one store, and processes that are killed at any moment."""

from __future__ import annotations

import random
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import get_args

import pytest

from ollm_widgets.kv.persistent.archive import RECORDS_NAME, BlockArchive
from ollm_widgets.kv.persistent.chain import chain_of, pack_ids
from ollm_widgets.planning.kv_presets import KVLayout
from tests.kv.persistent.writing import (
    ROOT,
    check,
    conversation,
    operate,
    save,
    write_until_killed,
)

LAYOUTS = sorted(set(get_args(KVLayout)) - {"contiguous", "ring"})
LIMIT_BYTES = 1_500_000
KILLS = 50  # for each layout
OPERATIONS = 1_000


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_writer_that_is_killed_leaves_a_store_with_right_bytes_only(
    layout: KVLayout, tmp_path: Path, forks: ForkServerContext
) -> None:
    chance = random.Random(layout)
    amid = partial = 0
    for seed in range(KILLS):
        receiver, sender = forks.Pipe(duplex=False)
        writer = forks.Process(
            target=write_until_killed, args=(tmp_path, layout, LIMIT_BYTES, seed, sender)
        )
        writer.start()
        sender.close()
        number, done = receiver.recv()
        while not done:
            number, done = receiver.recv()
        until = time.monotonic() + chance.random() * 0.03
        while (left := until - time.monotonic()) > 0 and receiver.poll(left):
            number, done = receiver.recv()
        writer.kill()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        while receiver.poll():
            try:
                number, done = receiver.recv()
            except EOFError:
                break
        receiver.close()
        archive = BlockArchive(tmp_path, layout, LIMIT_BYTES)
        chain = chain_of(ROOT, pack_ids(conversation(number)))
        amid += not done
        partial += not done and 0 < len(archive.find(chain)) < len(chain)
        assert all(check(archive, conversation(each)) >= 0 for each in range(40))
        archive.close()
    assert amid > KILLS / 4
    assert partial > KILLS / 20
    archive = BlockArchive(tmp_path, layout, LIMIT_BYTES)
    assert save(archive, conversation(7))
    assert check(archive, conversation(7)) == len(chain_of(ROOT, pack_ids(conversation(7))))
    assert archive.make_room([])
    on_disk = sum(path.stat().st_size for path in (tmp_path / RECORDS_NAME).iterdir())
    assert on_disk <= 2 * LIMIT_BYTES
    archive.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_use_one_store_at_once(
    layout: KVLayout, tmp_path: Path, forks: ForkServerContext
) -> None:
    pipes = [forks.Pipe(duplex=False) for _ in range(2)]
    workers = [
        forks.Process(
            target=operate, args=(tmp_path, layout, LIMIT_BYTES, seed, OPERATIONS, sender)
        )
        for seed, (_, sender) in enumerate(pipes)
    ]
    for worker in workers:
        worker.start()
    results = [receiver.recv() for receiver, _ in pipes]
    for worker in workers:
        worker.join()
    for result in results:
        assert not isinstance(result, str), result
        read, saved = result
        assert read > OPERATIONS / 4
        assert saved > OPERATIONS / 4
