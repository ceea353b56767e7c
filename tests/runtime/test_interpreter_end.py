"""What runs when the interpreter ends neither holds it nor is heard of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import threading, torch
torch.set_num_threads(1)
from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader
config = RuntimeConfig("path:{folder}", device="cpu")
long = GenerationConfig(max_new_tokens=200)
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


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends_quietly_with(end: str, saved_llama: Path) -> None:
    code = BEGIN.replace("{folder}", str(saved_llama)) + ENDS[end]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
