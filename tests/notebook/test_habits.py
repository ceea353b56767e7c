"""What people do in notebooks, and what must not stay in memory after it, in a real kernel."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager

from ollm_widgets.runtime.residency.neighbours import FOLDER_NAME
from tests.notebook.conftest import Kernel

PATIENCE_S = 60.0

# Looks at the model from outside: what it watches, it does not hold.
PRELUDE = """
import gc, sys, threading, time, weakref
import torch
torch.set_num_threads(1)
from ollm_widgets import (
    GenerationConfig, RuntimeConfig, RuntimeLoader, Session, Workbench, default_manager
)
config = RuntimeConfig({reference!r}, device="cpu")
long, short = GenerationConfig(max_new_tokens=200), GenerationConfig(max_new_tokens=8)
prompt = torch.tensor([[3, 4, 5]])

def watch(runtime):
    global watched
    watched = [weakref.ref(runtime), *map(weakref.ref, runtime.model.parameters())]

def held():
    # What is on meta has no bytes.
    alive = [ref() for ref in watched if ref() is not None]
    return sum(1 for each in alive if not getattr(each, "is_meta", False))

def until(holds):
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(holds())

def threads():
    names = ("ollm-model-", "weight-reader", "kv-")
    return sorted(each.name for each in threading.enumerate() if each.name.startswith(names))
"""


class Kernels:
    """Starts kernels that are ready to load the tiny model, and whose cache is in one folder."""

    def __init__(self, home: Path, model: Path) -> None:
        self.cache = home / "cache"
        self.cache.mkdir()
        self.started: list[Kernel] = []
        self._model = model

    def start(self) -> Kernel:
        manager = KernelManager(kernel_name="python3")
        environment = os.environ | {"OLLM_CACHE_DIR": str(self.cache), "OMP_NUM_THREADS": "1"}
        manager.start_kernel(cwd=str(Path(__file__).parents[2]), env=environment)
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        kernel = Kernel(manager, client)
        self.started.append(kernel)
        ready = kernel.run(PRELUDE.format(reference=f"path:{self._model}"))
        assert ready.status == "ok", ready.error
        return kernel

    def end(self) -> None:
        for kernel in self.started:
            kernel.client.stop_channels()
            kernel.manager.shutdown_kernel(now=True)


FAIL = """
in_hand = None
def fail(layer, args):
    global in_hand
    big = torch.zeros(100_000)
    in_hand = weakref.ref(big)
    below(big)
def below(given):
    return given / "broken here"
hook = runtime.model.model.layers[1].register_forward_pre_hook(fail)
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory, saved_llama: Path) -> Iterator[Kernels]:
    kernels = Kernels(tmp_path_factory.mktemp("shared"), saved_llama)
    yield kernels
    kernels.end()


@pytest.fixture
def kernel(kernels: Kernels, saved_llama: Path) -> Kernel:
    """A kernel with nothing in memory, whatever the test before has left."""
    kernel = kernels.started[0] if kernels.started else kernels.start()
    says(kernel, "default_manager().unload_all(force=True)\n%reset -f")
    says(kernel, PRELUDE.format(reference=f"path:{saved_llama}"))
    return kernel


@pytest.fixture
def own_kernels(tmp_path: Path, saved_llama: Path) -> Iterator[Kernels]:
    """Kernels that may be ended, and a folder in which only they leave something."""
    kernels = Kernels(tmp_path, saved_llama)
    yield kernels
    kernels.end()


def says(kernel: Kernel, code: str) -> str:
    """Run a cell that must work; give what it printed."""
    outcome = kernel.run(code)
    assert outcome.status == "ok", outcome.error
    return outcome.printed.strip()


def fails(kernel: Kernel, code: str) -> str:
    """Run a cell that must fail; give its error."""
    outcome = kernel.run(code)
    assert outcome.status == "error"
    return outcome.error


def test_a_deleted_runtime_is_gone_with_its_threads(kernel: Kernel) -> None:
    says(kernel, "runtime = RuntimeLoader().load(config); watch(runtime)")
    assert int(says(kernel, "runtime.complete('w3', short); print(held())")) > 10
    assert says(kernel, "del runtime\nprint(held(), threads())") == "0 []"


def test_an_error_in_an_answer_stays_with_the_notebook_and_holds_nothing(kernel: Kernel) -> None:
    says(kernel, "runtime = RuntimeLoader().load(config); watch(runtime)" + FAIL)
    error = fails(kernel, "runtime.generate(prompt, long)")
    assert "broken here" in error, "a person sees where it broke"
    assert says(kernel, "print(sys.last_value is not None, in_hand() is None)") == "True True"
    assert says(kernel, "hook.remove()\nprint(runtime.complete('w3', short).new_tokens > 0)") == (
        "True"
    )
    for asking in ("runtime.complete('')", "list(runtime.stream('w3 w4', long))"):
        says(kernel, "hook = runtime.model.model.layers[1].register_forward_pre_hook(fail)")
        fails(kernel, asking)
    said = says(kernel, "del runtime, hook\nprint(until(lambda: not held()), threads())")
    assert said == "True []"
    assert says(kernel, "print(type(sys.last_value).__name__)") == "TypeError"


def test_an_error_in_a_load_holds_nothing(
    kernel: Kernel, saved_llama: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(saved_llama, tmp_path / "broken")
    weights = broken / "model.safetensors"
    says(kernel, f"broken = RuntimeConfig('path:{broken}', device='cpu')")
    says(kernel, "plan = default_manager().loader.plan(broken)")
    # What a plan says of a file is not what is read of it, once it has been cut.
    os.truncate(weights, weights.stat().st_size // 2)
    fails(kernel, "lease = default_manager().acquire(broken)")
    code = """
gc.collect()
tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
print([each.shape for each in tensors if not each.is_meta and each is not prompt], threads())
print(default_manager().residents(), sys.last_value is not None)
"""
    assert says(kernel, code) == "[] []\n() True"


def test_an_interrupt_in_an_answer_ends_it_and_holds_nothing(kernel: Kernel) -> None:
    says(kernel, "runtime = RuntimeLoader().load(config); watch(runtime)")
    slow = "slow = runtime.model.model.layers[0].register_forward_pre_hook(lambda *_: slowly())"
    says(kernel, f"def slowly():\n    time.sleep(0.05)\n{slow}")
    # Old kernels count what another thread prints to the cell that has begun that thread.
    running = kernel.start("for piece in runtime.stream('w3', long): print('on', flush=True)")
    for message in kernel.messages(running):
        if message["msg_type"] == "stream":
            break
    kernel.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in kernel.finish(running).error
    assert says(kernel, "print(until(lambda: not runtime.busy))").endswith("True")
    said = says(kernel, "slow.remove(); answer = runtime.complete('w4', short); print('fine')")
    assert said.endswith("fine")
    assert (
        says(kernel, "del runtime, slow, slowly, piece\nprint(until(lambda: not held()))") == "True"
    )


def test_running_the_cell_that_loads_again_gives_the_same_runtime(kernel: Kernel) -> None:
    says(
        kernel,
        "loads = []\nend = default_manager().subscribe(lambda e: loads.append(e.kind == 'loaded'))",
    )
    for _ in range(3):
        says(kernel, "lease = default_manager().acquire(config); runtime = lease.runtime")
        says(kernel, "seen = {*globals().get('seen', ()), id(runtime)}")
    assert says(kernel, "print(sum(loads), len(seen), len(default_manager().residents()))") == (
        "1 1 1"
    )
    code = (
        "del lease\ngc.collect()\nprint(until(lambda: not default_manager().residents()[0].leases))"
    )
    assert says(kernel, code) == "True"


def test_unloading_frees_a_runtime_that_the_history_of_outputs_holds(
    kernel: Kernel, saved_llama: Path
) -> None:
    says(kernel, "%load_ext ollm")
    shown = kernel.run(f"%ollm load path:{saved_llama} --device cpu")
    assert shown.status == "ok", shown.error
    number = int(
        says(kernel, "print(max(n for n, held in Out.items() if hasattr(held, 'memory')))")
    )
    assert int(says(kernel, f"watch(Out[{number}]); print(held())")) > 10
    assert says(kernel, "%ollm unload --all")
    said = says(
        kernel,
        f"kept = Out[{number}]\nprint(kept.closed, kept.memory().host_bytes, held(), threads())",
    )
    # The runtime itself is what is left, without a weight.
    assert said == "True 0 1 []"
    assert "was closed" in fails(kernel, "kept.complete('w3')")


def test_closing_a_widget_leaves_the_model_and_unloading_does_not(kernel: Kernel) -> None:
    code = """
session = Session()
workbench = Workbench(session)
lease = default_manager().acquire(config); watch(lease.runtime); lease.release()
session.use(lease.id)
del lease
workbench.close(); session.close()
print(len(default_manager().residents()), held() > 10)
"""
    assert says(kernel, code) == "1 True"
    says(kernel, "%load_ext ollm\n%ollm unload --all")
    said = says(kernel, "del workbench, session\ngc.collect()\nprint(until(lambda: not held()))")
    assert said == "True"


def processes_below(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    _gone, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    return not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("state", ["idle", "answering", "loading"])
def test_a_kernel_that_is_shut_down_goes_whatever_it_does(own_kernels: Kernels, state: str) -> None:
    kernel = own_kernels.start()
    says(kernel, "lease = default_manager().acquire(config)")
    shown = "any(path.is_file() for path in pathlib.Path(folder).rglob('*'))"
    says(kernel, f"import pathlib; folder = {str(own_kernels.cache / FOLDER_NAME)!r}")
    assert says(kernel, f"print(until(lambda: {shown}))") == "True", "it shows itself to others"
    processes = processes_below(psutil.Process(kernel.manager.provisioner.process.pid))
    if state == "answering":
        # Behind the cell, as a page's chat is.
        says(kernel, "answer = lease.runtime.stream('w3 w4', long); first = next(answer)")
    if state == "loading":
        other = "RuntimeLoader().load(config, lambda _progress: begun.set())"
        says(
            kernel,
            "begun = threading.Event()\n"
            f"loading = threading.Thread(target=lambda: {other}, daemon=True)\n"
            "loading.start(); begun.wait(60)",
        )
    asked = time.monotonic()
    kernel.manager.request_shutdown()
    assert gone(processes)
    assert time.monotonic() - asked < PATIENCE_S
    assert files_of(own_kernels.cache) == []


def files_of(cache: Path) -> list[Path]:
    """Files that speak for a kernel, or that are locked by one."""
    return [each for each in (cache / FOLDER_NAME).rglob("*") if each.is_file()]


def test_a_kernel_that_was_killed_is_no_longer_seen(
    own_kernels: Kernels,
) -> None:
    first, second = own_kernels.start(), own_kernels.start()
    pid = first.manager.provisioner.process.pid
    says(first, "lease = default_manager().acquire(config)")
    seen = "print([each.pid for each in default_manager().others()])"
    says(second, "until(lambda: default_manager().others())")
    assert says(second, seen) == f"[{pid}]"
    processes = processes_below(psutil.Process(pid))
    processes[0].kill()
    first.manager.provisioner.process.wait()
    assert gone(processes)
    assert says(second, "until(lambda: not default_manager().others())\n" + seen) == "[]"
    assert not [each for each in files_of(own_kernels.cache) if str(pid) in each.name]
