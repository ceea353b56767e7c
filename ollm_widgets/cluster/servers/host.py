"""A host: a replica on some node that keeps models in a runtime manager of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ollm_widgets.backends.base import LoadProgress
from ollm_widgets.cluster.failures import NotHeldError
from ollm_widgets.cluster.messages import Described, HostReport, Offer, Wanted, What
from ollm_widgets.cluster.servers.bridge import Pumped, on_thread
from ollm_widgets.cluster.servers.holding import Holding
from ollm_widgets.cluster.servers.naming import node_name, placed
from ollm_widgets.cluster.servers.reporting import Identity, Reporter
from ollm_widgets.cluster.servers.side_door import shut_side_door
from ollm_widgets.cluster.servers.threads import use_all_cores
from ollm_widgets.cluster.servers.under_way import Kind, UnderWay
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.runtime.residency.manager import RuntimeManager
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours

if TYPE_CHECKING:
    from ollm_widgets.runtime.completion import Delta
    from ollm_widgets.runtime.prompt import Prompt
    from ollm_widgets.runtime.residency.records import RuntimeEvent, Unloaded

T = TypeVar("T")

# A piece of an answer, or ``("waits", n)``: n requests come before it.
Piece: TypeAlias = "Delta | tuple[str, int]"
# What is done on a thread: it looks at the event, and emits items.
Job: TypeAlias = Callable[[threading.Event, Callable[[T], None]], None]


class Host:
    """What Serve runs on the nodes. The first argument of its methods says which replica is meant.

    Reservations are made by the registry; a host releases that of a request when it has ended,
    whatever its end was.

    Parameters
    ----------
    registry
        Serve's handle of the registry.
    residency
        Options of its manager; see `ResidencyOptions`.
    """

    def __init__(self, registry: Any, residency: Mapping[str, Any]) -> None:
        import ray
        from ray import serve

        shut_side_door()
        use_all_cores()
        context = ray.get_runtime_context()
        node_id = context.get_node_id()
        me = Identity(
            serve.get_replica_context().replica_id.unique_id,
            node_id,
            node_name(node_id),
            context.current_actor,
        )
        self._node = me.node
        self._loop = asyncio.get_running_loop()
        # What notebooks on this machine know it by.
        neighbours = KernelNeighbours(title=f"{me.node} of the cluster")
        self._holding = Holding(RuntimeManager(neighbours=neighbours, **residency))
        self._reporter = Reporter(registry, me, self._holding)
        self._under_way = UnderWay()
        # The event loop itself holds its tasks only weakly.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._holding.manager.subscribe(self._note)
        self._begin(self._report())

    async def __del__(self) -> None:
        """Shut down in order: Serve waits for this."""
        try:
            await self._reporter.part()
        finally:
            for task in self._tasks:
                task.cancel()
            await on_thread(self._holding.manager.close)

    # ------------------------------------------------------------------ before loading

    async def wake(self, _host: str | None = None) -> None:
        """Do nothing: to be asked at all has Serve start a host where there is none."""

    async def offer(self, _host: str, wanted: Wanted) -> Offer:
        """Say how a model would run here.

        Raises
        ------
        OllmError
            If its config cannot work.
        """
        return await self._here(on_thread(lambda: self._holding.offer(wanted)))

    # ------------------------------------------------------------------ requests

    async def load(
        self,
        _host: str,
        reservation: str,
        wanted: Wanted,
        evicts: Sequence[str],
        client: str,
        _caller: str = "",
    ) -> AsyncIterator[LoadProgress | Described]:
        """Load a model, or join its load; whoever stops reading leaves it.

        The reservation stays for the request that follows, unless the load fails.

        Yields
        ------
        LoadProgress
            The latest of each stage.
        Described
            What was loaded, at last.

        Raises
        ------
        OllmError
            What the manager raised.
        """

        def job(cancel: threading.Event, emit: Callable[[LoadProgress | Described], None]) -> None:
            emit(self._holding.load(wanted, evicts, emit, cancel))

        loaded: list[Described] = []
        batches = self._batches("load", reservation, client, job, keeps_place=True)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                loaded += [item for item in batch if isinstance(item, Described)]
                for progress in _latest(batch):
                    yield progress
        if await self._reporter.loaded(wanted.key):
            await on_thread(lambda: self._holding.set_pinned(wanted.key, True))
        yield loaded[-1]

    async def stream(  # noqa: PLR0917  (calls are sent by position)
        self,
        _host: str,
        reservation: str,
        key: str,
        prompt: Prompt,
        generation: Mapping[str, Any],
        client: str,
        caller: str,
    ) -> AsyncIterator[list[Piece]]:
        """Answer piece by piece; whoever stops reading ends it.

        Parameters
        ----------
        generation
            `GenerationConfig.as_dict`.
        caller
            Whose turn it takes; no two clients have the same.

        Yields
        ------
        list
            What has come since the last one: pieces, and ``("waits", n)`` with the number of
            requests that come before it, 0 in the end.

        Raises
        ------
        NotHeldError
            When the model has left.
        OllmError
            What the runtime raised.
        """

        def job(cancel: threading.Event, emit: Callable[[Piece], None]) -> None:
            settings = GenerationConfig.from_dict(generation)
            with (
                self._holding.borrow(key, cancel) as lease,
                lease.runtime.stream(
                    prompt,
                    settings,
                    cancel,
                    caller=caller,
                    on_wait=lambda before: emit(("waits", before)),
                ) as pieces,
            ):
                for piece in pieces:
                    emit(piece)

        batches = self._answer(reservation, client, key, job)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                yield batch

    async def generate(  # noqa: PLR0917  (calls are sent by position)
        self,
        _host: str,
        reservation: str,
        key: str,
        input_ids: list[list[int]],
        attention_mask: list[list[int]] | None,
        generation: Mapping[str, Any],
        client: str,
        caller: str,
    ) -> list[list[int]]:
        """Generate token ids; see `LoadedRuntime.generate`, and `stream` for the rest.

        Parameters
        ----------
        input_ids, attention_mask
            ``[batch, prompt]``.

        Returns
        -------
        list
            ``[batch, prompt + new]``.
        """

        def job(cancel: threading.Event, emit: Callable[[list[list[int]]], None]) -> None:
            import torch

            settings = GenerationConfig.from_dict(generation)
            mask = None if attention_mask is None else torch.tensor(attention_mask)
            with self._holding.borrow(key, cancel) as lease:
                output = lease.runtime.generate(
                    torch.tensor(input_ids),
                    settings,
                    cancel=cancel,
                    attention_mask=mask,
                    caller=caller,
                )
                emit(output.tolist())

        outputs: list[list[list[int]]] = []
        batches = self._answer(reservation, client, key, job)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                outputs += batch
        return outputs[-1]

    async def stop(self, _host: str, reservation: str) -> bool:
        """End a request in order, with what it has so far; False if none is under way."""
        return self._under_way.stop(reservation)

    async def abandon(self, _host: str, client: str) -> int:
        """End all requests of a client that is gone; returns how many there were."""
        return self._under_way.abandon(client)

    # ------------------------------------------------------------------ what it holds

    async def ask(self, _host: str, key: str, what: What) -> Any:
        """Answer a question about a model.

        Parameters
        ----------
        what
            ``memory``, ``kv_stats``, ``truth``, ``plan`` or ``queue``, as `LoadedRuntime` has them.

        Raises
        ------
        NotHeldError
            When the model has left.
        ConfigError
            For another question.
        """
        return await self._here(on_thread(lambda: self._holding.ask(key, what)))

    async def held(self, _host: str) -> HostReport:
        """Report what it holds."""
        return await self._reporter.report()

    async def unload(self, _host: str, key: str, force: bool = False) -> Unloaded | None:
        """Unload a model once nobody uses it, or at once with force; None if it is not here.

        Raises
        ------
        RuntimeBusyError
            If it stays busy longer than the host waits.
        """
        change = await self._here(on_thread(lambda: self._holding.unload(key, force=force)))
        await self._reporter.gone(key)
        return change

    async def pin(self, _host: str, key: str, pinned: bool) -> None:
        """Keep a model when the host needs room, or let it go."""
        await self._here(on_thread(lambda: self._holding.set_pinned(key, pinned)))

    # ------------------------------------------------------------------ inside

    async def _answer(
        self, reservation: str, client: str, key: str, job: Job[T]
    ) -> AsyncGenerator[list[T]]:
        batches = self._batches("answer", reservation, client, job)
        try:
            async with contextlib.aclosing(batches):
                async for batch in batches:
                    yield batch
        except NotHeldError:
            await self._reporter.gone(key)
            raise

    async def _batches(
        self, kind: Kind, reservation: str, client: str, job: Job[T], *, keeps_place: bool = False
    ) -> AsyncGenerator[list[T]]:
        """Do a job on a thread, and release its reservation when that has ended."""
        with self._under_way.work(kind, reservation, client) as work:
            pumped: Pumped[T] = Pumped(lambda emit: job(work.cancel, emit))
            done = False
            try:
                async for batch in pumped.batches():
                    yield batch
                done = True
            except Exception as error:
                placed(error, self._node)
                raise
            finally:
                if not (done and keeps_place):
                    self._begin(self._release_after(pumped, reservation))

    async def _release_after(self, pumped: Pumped[Any], reservation: str) -> None:
        # Until then the model is leased, and must not be taken for an idle one.
        await pumped.end()
        await self._reporter.release(reservation)

    async def _report(self) -> None:
        with contextlib.suppress(Exception):  # it shows again, with its reason, in each plan
            await on_thread(self._holding.look_around)
        await self._reporter.run()

    def _note(self, _event: RuntimeEvent) -> None:
        self._reporter.poke()

    async def _here(self, answer: Awaitable[T]) -> T:
        """Wait for an answer, whose errors say where they happened."""
        try:
            return await answer
        except Exception as error:
            placed(error, self._node)
            raise

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _latest(batch: Sequence[LoadProgress | Described]) -> list[LoadProgress]:
    """Return the last progress of each stage; earlier ones say nothing more by now."""
    latest = {(item.stage, item.file): item for item in batch if isinstance(item, LoadProgress)}
    return list(latest.values())
