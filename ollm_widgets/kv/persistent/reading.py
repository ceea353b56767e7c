"""Records on their way into tensors: several threads read and check at once.

On a processor each thread also decodes what it has read, while that is in its cache. A GPU gets
the records as they are, and decodes many of them by each of its kernels: to launch a few for
every record would take longer than to read it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import torch

from ollm_widgets.errors import KVPageError
from ollm_widgets.kv.codecs import PageCodec
from ollm_widgets.kv.persistent.archive import BlockArchive
from ollm_widgets.kv.persistent.blocks import Part, StoredBlock
from ollm_widgets.kv.persistent.pages import RecordPlan, decode_records, header_of

# Keys and values ``[1, heads, tokens, width]`` by layer.
LayerStates: TypeAlias = Mapping[int, tuple[torch.Tensor, torch.Tensor]]
WantedRecord: TypeAlias = tuple[StoredBlock, Part]

# What is decoded at once: small for a processor's cache, large for a GPU, which takes it twice.
_RUN_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
# What a thread reads at once on its way to a GPU: page-locked memory is slow to make.
_PIECE_BYTES = 4 << 20
_MOST_THREADS = 12
# One run arrives while another is decoded.
_RUNS_UNDER_WAY = 2


class DamagedRecord(Exception):  # noqa: N818  (never leaves this package: the block is forgotten)
    """A record was not there as it was written.

    Parameters
    ----------
    block, part
        Whose, and where it should have been.
    """

    def __init__(self, block: StoredBlock, part: Part) -> None:
        super().__init__(f"record {part.name} of block {block.number}")
        self.block = block
        self.part = part


@dataclass(frozen=True, slots=True)
class RecordRun:
    """Records of the same plan whose tokens follow each other, and where these go.

    Parameters
    ----------
    records
        Blocks with their records.
    plan
        Of each of them.
    outs
        Where the pages go; see `decode_records`.
    skip
        Tokens of the first record that are not wanted.
    """

    records: tuple[WantedRecord, ...]
    plan: RecordPlan
    outs: LayerStates
    skip: int = 0


class Arrival(Protocol):
    """Records on their way into tensors."""

    def finish(self, done: Callable[[int], None]) -> None:
        """Return when all is in its place; what is enqueued from then on finds it there.

        Parameters
        ----------
        done
            Called on this thread with the bytes of each piece that has come. What it raises ends
            the reading.

        Raises
        ------
        DamagedRecord
            When a record is not there as it was written: the first one.
        """


def run_records(device: torch.device, plan: RecordPlan) -> int:
    """How many records to decode at once."""
    return max(1, _RUN_BYTES.get(device.type, _RUN_BYTES["cpu"]) // plan.size)


class RecordReader:
    """Fills tensors from an archive. Use it as a context: at its end nobody writes to them.

    Parameters
    ----------
    archive
        Where the records are.
    codec
        Of their pages.
    """

    def __init__(self, archive: BlockArchive, codec: PageCodec) -> None:
        self._archive = archive
        self._codec = codec
        self._stop = threading.Event()
        self._local = threading.local()
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kv-reader")

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def read(self, runs: Sequence[RecordRun], done: Callable[[int], None]) -> None:
        """Read and decode; returns when all is in its place. See `begin` and `Arrival.finish`."""
        self.begin(runs).finish(done)

    def begin(self, runs: Sequence[RecordRun]) -> Arrival:
        """Have records read from now on, behind those that were asked for before.

        Parameters
        ----------
        runs
            In the order in which they are wanted.
        """
        devices = {keys.device for run in runs for keys, _ in run.outs.values()}
        if devices and all(device.type == "cuda" for device in devices):
            return _ToGpus(self, runs, devices)
        return _ToProcessor([self._pool.submit(self._fill, run) for run in runs])

    # ------------------------------------------------------------------ to a processor

    # What was allocated in inference mode can only be written to in it.
    @torch.inference_mode()
    def _fill(self, run: RecordRun) -> int:
        if self._stop.is_set():
            return 0
        host = self._host_memory(len(run.records) * run.plan.size, pinned=False)
        data = host.view(-1, run.plan.size)
        self._read(run.records, run.plan, data)
        for device in {keys.device for keys, _ in run.outs.values()}:
            self.decode(data.to(device), run)
        return host.numel()

    def decode(self, data: torch.Tensor, run: RecordRun) -> None:
        """Decode the pages of one device, that of `data`, ``uint8 [records, size]``."""
        outs = run.outs
        places = tuple(
            place for place in run.plan.places if outs[place.pages.layer][0].device == data.device
        )
        decode_records(data, replace(run.plan, places=places), self._codec, outs, skip=run.skip)

    # ------------------------------------------------------------------ to GPUs

    def bring(self, run: RecordRun, data: Sequence[torch.Tensor]) -> list[Future[int]]:
        """Have the records of a run come to `data`, ``uint8 [records, size]`` on each device.

        Returns
        -------
        list of Future
            The bytes of a piece each, in their order; what they raise is a `DamagedRecord`.
        """
        step = max(1, _PIECE_BYTES // run.plan.size)
        pieces = [slice(first, first + step) for first in range(0, len(run.records), step)]
        return [
            self._pool.submit(self._bring, run.records[rows], run.plan, [one[rows] for one in data])
            for rows in pieces
        ]

    @torch.inference_mode()
    def _bring(
        self, records: Sequence[WantedRecord], plan: RecordPlan, targets: Sequence[torch.Tensor]
    ) -> int:
        if self._stop.is_set():
            return 0
        host = self._host_memory(len(records) * plan.size, pinned=True)
        data = host.view(-1, plan.size)
        self._read(records, plan, data)
        streams = [self._stream(target.device) for target in targets]
        for target, stream in zip(targets, streams, strict=True):
            with torch.cuda.stream(stream):
                target.copy_(data, non_blocking=True)
        # The memory here is used for the next piece, and nobody else awaits what it gave.
        for stream in streams:
            stream.synchronize()
        return host.numel()

    # ------------------------------------------------------------------ reading

    def _read(self, records: Sequence[WantedRecord], plan: RecordPlan, host: torch.Tensor) -> None:
        wanted = [
            (part, memoryview(row.numpy())) for (_, part), row in zip(records, host, strict=True)
        ]
        for block, part in records:
            if part.extent.size != plan.size:
                raise DamagedRecord(block, part)
        try:
            self._archive.read(wanted)
        except KVPageError:
            # Which one it was shows when each is read for itself.
            for (block, part), each in zip(records, wanted, strict=True):
                try:
                    self._archive.read([each])
                except KVPageError as error:
                    raise DamagedRecord(block, part) from error
        for (block, part), (_, memory) in zip(records, wanted, strict=True):
            header = header_of(block.chain.hash, part.name, part.first, self._codec.codec_id)
            if memory[: len(header)] != header:
                raise DamagedRecord(block, part)

    def _host_memory(self, size: int, *, pinned: bool) -> torch.Tensor:
        """``uint8 [size]`` of this thread, pinned where a GPU copies from it."""
        memory: torch.Tensor | None = getattr(self._local, "memory", None)
        if memory is None or memory.numel() < size:
            memory = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)
            self._local.memory = memory
        return memory[:size]

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        """A stream of this thread, on which nothing else waits."""
        streams: dict[torch.device, torch.cuda.Stream] = self._local.__dict__.setdefault(
            "streams", {}
        )
        if device not in streams:
            streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return streams[device]


class _ToProcessor:
    """Records that are read and decoded by the same threads."""

    def __init__(self, runs: Sequence[Future[int]]) -> None:
        self._runs = runs

    def finish(self, done: Callable[[int], None]) -> None:
        """See `Arrival`."""
        for run in self._runs:
            done(run.result())


class _ToGpus:
    """Records that come to GPUs as they are; a run is decoded while the next ones arrive."""

    def __init__(
        self, reader: RecordReader, runs: Sequence[RecordRun], devices: set[torch.device]
    ) -> None:
        self._reader = reader
        self._devices = devices
        self._waiting = deque(runs)
        self._under_way: deque[tuple[RecordRun, list[torch.Tensor], list[Future[int]]]] = deque()
        self._begin_next()

    @torch.inference_mode()
    def finish(self, done: Callable[[int], None]) -> None:
        """See `Arrival`."""
        while self._under_way:
            self._begin_next()
            run, data, pieces = self._under_way.popleft()
            for piece in pieces:
                done(piece.result())
            for each in data:
                self._reader.decode(each, run)

    @torch.inference_mode()
    def _begin_next(self) -> None:
        while self._waiting and len(self._under_way) < _RUNS_UNDER_WAY:
            run = self._waiting.popleft()
            shape = (len(run.records), run.plan.size)
            data = [torch.empty(shape, dtype=torch.uint8, device=each) for each in self._devices]
            for device in self._devices:
                # This memory may be what a kernel on its way reads from still.
                torch.cuda.current_stream(device).synchronize()
            self._under_way.append((run, data, self._reader.bring(run, data)))
