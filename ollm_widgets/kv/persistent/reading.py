"""Records on their way into tensors: several threads read, check and decode at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from ollm_widgets.errors import KVPageError
from ollm_widgets.kv.codecs import PageCodec
from ollm_widgets.kv.persistent.archive import BlockArchive
from ollm_widgets.kv.persistent.blocks import Part, StoredBlock
from ollm_widgets.kv.persistent.pages import RecordPlan, decode_records, header_of

# Keys and values ``[1, heads, tokens, width]`` by layer.
LayerStates: TypeAlias = Mapping[int, tuple[torch.Tensor, torch.Tensor]]

# What is read and decoded at once: large for the disk, small for a processor's cache.
_RUN_BYTES = {"cpu": 8 << 20, "cuda": 64 << 20}
_MOST_THREADS = 8


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

    records: tuple[tuple[StoredBlock, Part], ...]
    plan: RecordPlan
    outs: LayerStates
    skip: int = 0


def run_records(device: torch.device, plan: RecordPlan) -> int:
    """How many records to read at once."""
    return max(1, _RUN_BYTES.get(device.type, _RUN_BYTES["cpu"]) // plan.size)


class RecordReader:
    """Fills tensors from an archive. Use it as a context.

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
        """Read and decode; returns when all is in its place.

        Parameters
        ----------
        runs
            In the order in which they are wanted.
        done
            Called on this thread with the bytes of each run that is in its place. What it raises
            ends the reading.

        Raises
        ------
        DamagedRecord
            When a record is not there as it was written: the first one.
        """
        for device in {keys.device for run in runs for keys, _ in run.outs.values()}:
            if device.type == "cuda":
                # The room to be filled may be what a kernel on its way reads from still.
                torch.cuda.current_stream(device).synchronize()
        futures = [self._pool.submit(self._fill, run) for run in runs]
        try:
            for future in futures:
                done(future.result())
        except BaseException:
            # The tensors belong to the caller again once nobody writes to them.
            self._stop.set()
            for future in futures:
                future.cancel()
            wait(futures)
            raise

    # What was allocated in inference mode can only be written to in it.
    @torch.inference_mode()
    def _fill(self, run: RecordRun) -> int:
        if self._stop.is_set():
            return 0
        size = run.plan.size
        devices = {keys.device for keys, _ in run.outs.values()}
        pinned = any(device.type == "cuda" for device in devices)
        host = self._host_memory(len(run.records) * size, pinned=pinned).view(-1, size)
        self._read(run, host)
        for device in devices:
            places = tuple(
                place
                for place in run.plan.places
                if run.outs[place.pages.layer][0].device == device
            )
            self._decode(host, replace(run, plan=replace(run.plan, places=places)), device)
        return host.numel()

    def _decode(self, host: torch.Tensor, run: RecordRun, device: torch.device) -> None:
        """Decode the pages of one device."""
        if device.type != "cuda":
            decode_records(host, run.plan, self._codec, run.outs, skip=run.skip)
            return
        stream = self._stream(device)
        with torch.cuda.stream(stream):
            data = torch.empty_like(host, device=device).copy_(host, non_blocking=True)
            decode_records(data, run.plan, self._codec, run.outs, skip=run.skip)
        # The memory here is used for the next run, and nobody else awaits what it gave.
        stream.synchronize()

    def _read(self, run: RecordRun, host: torch.Tensor) -> None:
        wanted = [
            (part, memoryview(row.numpy()))
            for (_, part), row in zip(run.records, host, strict=True)
        ]
        for block, part in run.records:
            if part.extent.size != run.plan.size:
                raise DamagedRecord(block, part)
        try:
            self._archive.read(wanted)
        except KVPageError:
            # Which one it was shows when each is read for itself.
            for (block, part), each in zip(run.records, wanted, strict=True):
                try:
                    self._archive.read([each])
                except KVPageError as error:
                    raise DamagedRecord(block, part) from error
        for (block, part), (_, memory) in zip(run.records, wanted, strict=True):
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
