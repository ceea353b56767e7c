"""The libraries of a kernel's first load are imported before anything is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ollm_widgets.runtime.libraries import STAGE

LOAD_TWICE = """
import json
from ollm_widgets import RuntimeConfig, RuntimeLoader
told = []
def stages_of_a_load():
    told.clear()
    with RuntimeLoader().load(
        RuntimeConfig("path:{folder}", device="cpu"), lambda news: told.append(news.stage)
    ) as runtime:
        measured = [row.what for row in runtime.truth.rows]
    return list(dict.fromkeys(told)), measured
print(json.dumps([stages_of_a_load(), stages_of_a_load()]))
"""


def test_the_first_load_says_that_it_imports_and_counts_none_of_it(saved_llama: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD_TWICE.replace("{folder}", str(saved_llama))],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    (first, first_measured), (second, second_measured) = json.loads(done.stdout)
    assert first == [STAGE, *second]
    assert first_measured == second_measured
    assert STAGE not in first_measured
    assert "Build" in first_measured
