"""What runs when the interpreter ends neither holds it nor is heard of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Each end is that of a process of its own. They are forked, as imports take most of the time, and
# of what has been imported nothing has begun to run.
BEGIN = """
import json, os, sys, threading
import torch, transformers.models.llama.modeling_llama
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
import ollm_widgets.backends.native, ollm_widgets.weights.engine
from ollm_widgets.runtime.libraries import import_libraries
from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader
import_libraries(lambda _progress: None, threading.Event())
get_checkpoint_conversion_mapping("llama")
assert threading.active_count() == 1
torch.set_num_threads(1)
config = RuntimeConfig("path:" + sys.argv[1], device="cpu")
long = GenerationConfig(max_new_tokens=200)
said = {}
for name, end in json.loads(sys.argv[2]).items():
    heard, tell = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(tell, 2)
        break
    os.close(tell)
    with os.fdopen(heard) as words:
        said[name] = words.read(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
else:
    end = "print(json.dumps(said))"
exec(end, globals())
"""
ENDS = {
    "an idle runtime": "runtime = RuntimeLoader().load(config); runtime.complete('w3', long)",
    "a request that runs": (
        "runtime = RuntimeLoader().load(config)\n"
        "stream = runtime.stream('w3 w4', long)\nnext(stream)"
    ),
    "requests that wait": (
        "runtime = RuntimeLoader().load(config)\n"
        "streams = [runtime.stream('w3 w4', long, caller=str(n)) for n in range(20)]\n"
        "readers = [threading.Thread(target=list, args=(each,), daemon=True) for each in streams]\n"
        "[each.start() for each in readers]\nassert runtime.busy"
    ),
    "a lease": (
        "from ollm_widgets import RuntimeManager\nlease = RuntimeManager().acquire(config)"
    ),
    "a load that runs": (
        "from ollm_widgets import Cancelled, RuntimeManager\nbegun = threading.Event()\n"
        "manager = RuntimeManager()\n"
        "def load():\n"
        "    try:\n        manager.acquire(config, lambda _progress: begun.set())\n"
        "    except Cancelled:\n        pass\n"
        "threading.Thread(target=load, daemon=True).start()\n"
        "assert begun.wait(60)"
    ),
    "a load by hand": (
        "begun = threading.Event()\n"
        "load = lambda: RuntimeLoader().load(config, lambda _progress: begun.set())\n"
        "threading.Thread(target=load, daemon=True).start()\n"
        "assert begun.wait(60)"
    ),
    "an error": (
        "runtime = RuntimeLoader().load(config)\n"
        "runtime.model.model.layers[0].register_forward_pre_hook(lambda *_: 1 / 0)\n"
        "try:\n    runtime.complete('w3')\nexcept ZeroDivisionError as error:\n    kept = error"
    ),
}


@pytest.fixture(scope="module")
def ended(saved_llama: Path) -> dict[str, tuple[str, int]]:
    """What each has said on its standard error, and its exit status."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", BEGIN, str(saved_llama), json.dumps(ENDS)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {name: (said, status) for name, (said, status) in json.loads(done.stdout).items()}


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends_quietly_with(end: str, ended: dict[str, tuple[str, int]]) -> None:
    assert ended[end] == ("", 0)
