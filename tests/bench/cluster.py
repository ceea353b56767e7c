"""What a cluster adds, and what the way to it costs: one, two and three hosts, and a local lease.

Run: ``python tests/bench/cluster.py [--threads 6] [--requests 10] [--rounds 60]``

A real Ray cluster of three nodes, on this one machine and on loopback: the hosts share its cores
with each other, with Ray and with the script. So there are two models. The tiny Llama is computed,
and more hosts are no more cores. The waiting one is the same, but each of its tokens also waits,
without a core, as if an accelerator of its own computed it; it shows how routing scales.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ |= {"HF_HUB_OFFLINE": "1", "OLLM_OBSERVE": "0", "OMP_NUM_THREADS": "1"}

import machine  # noqa: E402  (from here on what the path above leads to)
from table import Table, number, times  # noqa: E402

from ollm_widgets import Cluster, GenerationConfig, RuntimeConfig, RuntimeManager  # noqa: E402
from ollm_widgets.cluster.options import ClusterOptions  # noqa: E402
from ollm_widgets.cluster.servers import serving  # noqa: E402
from ollm_widgets.cluster.servers.host import Host  # noqa: E402
from tests.cluster.on_ray.real_ray import Hosts, deploy, running_ray, until  # noqa: E402
from tests.cluster.tiny import PROMPT, tiny_llama  # noqa: E402

if TYPE_CHECKING:
    from ollm_widgets.runtime.interface import Runtime

# Of the waiting model, for each token.
WAIT_S = 0.01
_WAITS = "waits_s"
_ANSWER_TOKENS = 16
_SHORT_TOKENS = 16
_LONG_TOKENS = 512
_LONG_ROUNDS = 9
_JOINS = 5
_HOSTS = (1, 2, 3)


class WaitingHost(Host):
    """A host that runs the waiting model, too."""

    def __init__(self, registry: Any, residency: Mapping[str, Any]) -> None:
        let_tokens_wait()
        super().__init__(registry, residency)


def let_tokens_wait() -> None:
    """Have each step of a model wait as its config says."""
    from transformers import LlamaModel

    forward = LlamaModel.forward

    @functools.wraps(forward)
    def waiting(self: Any, *args: Any, **options: Any) -> Any:
        time.sleep(getattr(self.config, "waits_s", 0.0))
        return forward(self, *args, **options)

    setattr(LlamaModel, "forward", waiting)  # noqa: B010 - mypy takes methods for constants


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=6, help="that ask at the same time")
    parser.add_argument("--requests", type=int, default=10, help="of each of them")
    parser.add_argument("--rounds", type=int, default=60, help="of each time that is taken")
    default = os.environ.get("OLLM_BENCH_DIR") or Path(tempfile.gettempdir()) / "ollm-bench"
    parser.add_argument("--dir", type=Path, default=Path(default), help="OLLM_BENCH_DIR")
    options = parser.parse_args()
    print(f"{machine.describe()}, ray {version('ray')}")
    folder = options.dir / "cluster"
    computed, waiting = models(folder)
    let_tokens_wait()
    setattr(serving, "Host", WaitingHost)  # noqa: B010 - what the deployment is made of
    with running_ray(folder / "cache") as nodes:
        hosts = deploy(ClusterOptions(address=nodes.address), max(_HOSTS))
        table = Table("model", "where", "requests/s", "tokens/s", "x one host", "x local", "")
        for model, title in ((computed, "tiny"), (waiting, f"tiny, waits {1e3 * WAIT_S:.0f} ms")):
            scale(table, title, model, nodes.address, hosts, options)
        asked = f"{options.threads} threads, {options.requests} answers each"
        print(f"\n{asked}, of {_ANSWER_TOKENS} tokens\n{table}", flush=True)
        table = Table("", "local ms", "1 in 20 over", "cluster ms", "1 in 20 over", "more ms", "")
        compare(table, computed, nodes.address, hosts, options.rounds)
        print(f"\nOne caller, medians of {options.rounds}\n{table}", flush=True)
        load = os.getloadavg()[0]
    print(f"\nload of the machine {load:.1f} on {os.cpu_count()} cores")


def models(folder: Path) -> tuple[Path, Path]:
    """Write the models, once."""
    made = []
    for name in ("computed", "waiting"):
        made.append(folder / name)
        if not (made[-1] / "config.json").exists():
            tiny_llama(made[-1], seed=0)
    file = made[1] / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), _WAITS: WAIT_S}, indent=2))
    return made[0], made[1]


# ---------------------------------------------------------------------- throughput


def scale(
    table: Table, title: str, model: Path, address: str, hosts: Hosts, options: argparse.Namespace
) -> None:
    """Ask from several threads: a lease of this machine, then one host, two and three."""
    with leased(RuntimeManager(), config(model, "cpu")) as runtime:
        local = per_s(runtime, options)
    table.add(
        title, "this machine", number(local, 1), number(local * _ANSWER_TOKENS, 0), "", "", ""
    )
    one = None
    for count in _HOSTS:
        cluster = Cluster(address, copies={str(model): count})
        with leased(RuntimeManager(cluster=cluster), config(model, "ray")) as runtime:
            until(functools.partial(_is_on, hosts, count, runtime))
            rate = per_s(runtime, options)
        hosts.empty()
        one = one or rate
        table.add(
            "", f"{count} host{'s' * (count > 1)}", number(rate, 1),
            number(rate * _ANSWER_TOKENS, 0), times(rate / one), times(rate / local), "",
        )  # fmt: skip


def per_s(runtime: Runtime, options: argparse.Namespace) -> float:
    """Return how many answers a second come, asked for from all threads."""
    settings = GenerationConfig(max_new_tokens=_ANSWER_TOKENS)
    failed: list[BaseException] = []
    ready = threading.Barrier(options.threads + 1)

    def ask() -> None:
        try:
            runtime.complete(PROMPT, settings)
            ready.wait()
            for _ in range(options.requests):
                assert runtime.complete(PROMPT, settings).new_tokens == _ANSWER_TOKENS
        except BaseException as error:
            failed.append(error)
            ready.abort()

    threads = [threading.Thread(target=ask) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began
    if failed:
        raise failed[0]
    asked: int = options.threads * options.requests
    return asked / took_s


def _is_on(hosts: Hosts, count: int, runtime: Runtime) -> bool:
    runtime.complete(PROMPT, GenerationConfig(max_new_tokens=1))
    return sum(bool(host.held) for host in hosts.view().hosts) == count


# ---------------------------------------------------------------------- the way there


def compare(table: Table, model: Path, address: str, hosts: Hosts, rounds: int) -> None:
    """Take the same times of a lease of this machine and of one host, in turns."""
    cluster = Cluster(address)
    here, there = config(model, "cpu"), config(model, "ray")
    at_home, away = RuntimeManager(), RuntimeManager(cluster=cluster)
    with ExitStack() as leases:
        local = leases.enter_context(leased(at_home, here))
        remote = leases.enter_context(leased(away, there))

        def both(title: str, count: int, take: Callable[[Runtime], float]) -> None:
            taken = [(take(local), take(remote)) for _ in range(count)]
            row(table, title, [one for one, _other in taken], [other for _one, other in taken])

        both("until the first piece", rounds, until_first_s)
        both(f"an answer of {_SHORT_TOKENS} tokens", rounds, short_answer_s)
        both(f"a token of {_LONG_TOKENS}", _LONG_ROUNDS, a_token_s)
        row(
            table,
            "a lease of what is loaded",
            [lease_s(at_home, here) for _ in range(rounds)],
            [lease_s(away, there) for _ in range(rounds)],
        )
        row(
            table,
            "any question to the registry",
            (),
            [seconds(cluster.view) for _ in range(rounds)],
        )
        row(
            table,
            "another client's first lease",
            (),
            [joins_s(address, there) for _ in range(_JOINS)],
        )
    hosts.empty()


def until_first_s(runtime: Runtime) -> float:
    """Return the seconds until something can be seen."""
    began = time.perf_counter()
    with runtime.stream(PROMPT, GenerationConfig(max_new_tokens=_SHORT_TOKENS)) as pieces:
        next(pieces)
        return time.perf_counter() - began


def short_answer_s(runtime: Runtime) -> float:
    """Return the seconds of a whole answer."""
    settings = GenerationConfig(max_new_tokens=_SHORT_TOKENS)
    return seconds(lambda: runtime.complete(PROMPT, settings))


def a_token_s(runtime: Runtime) -> float:
    """Return the seconds of a token as they arrive, after the first piece."""
    with runtime.stream(PROMPT, GenerationConfig(max_new_tokens=_LONG_TOKENS)) as pieces:
        first = next(pieces)
        began = time.perf_counter()
        *_rest, last = pieces
        return (time.perf_counter() - began) / (last.new_tokens - first.new_tokens)


def lease_s(manager: RuntimeManager, wanted: RuntimeConfig) -> float:
    """Return the seconds until a lease is there."""
    began = time.perf_counter()
    with manager.acquire(wanted):
        return time.perf_counter() - began


def joins_s(address: str, wanted: RuntimeConfig) -> float:
    """Return the seconds until a client that comes anew has one; Ray is connected already."""
    manager = RuntimeManager(cluster=Cluster(address))
    took_s = lease_s(manager, wanted)
    manager.close()
    return took_s


def seconds(work: Callable[[], object]) -> float:
    """Time something."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# ---------------------------------------------------------------------- what both need


def config(model: Path, device: str) -> RuntimeConfig:
    """Describe the model on this machine, or on the cluster."""
    return RuntimeConfig(str(model), device=device, dtype="float32")


@contextmanager
def leased(manager: RuntimeManager, wanted: RuntimeConfig) -> Iterator[Runtime]:
    """Lend a model, and close its manager afterwards."""
    try:
        with manager.acquire(wanted) as lease:
            yield lease.runtime
    finally:
        manager.close()


def row(table: Table, title: str, local_s: Sequence[float], cluster_s: Sequence[float]) -> None:
    """Add the medians of what was taken in milliseconds, and what one in twenty exceeds."""
    local, cluster = (_in_ms(taken) for taken in (local_s, cluster_s))
    more = None if local is None or cluster is None else cluster[0] - local[0]
    cells = [number(value, 2) for pair in (local, cluster) for value in (pair or (None, None))]
    table.add(title, *cells, number(more, 2), "")


def _in_ms(taken_s: Sequence[float]) -> tuple[float, float] | None:
    if not taken_s:
        return None
    ordered = sorted(1e3 * each for each in taken_s)
    return statistics.median(ordered), ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)]


if __name__ == "__main__":
    main()
