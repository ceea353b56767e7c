"""How many threads a host computes with, in real processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_CHILD = "from ollm_widgets.cluster.servers.threads import use_all_cores as u; u(); "
_CHILD += "import os; print(os.environ.get('OMP_NUM_THREADS'))"
# As Ray does: the worker gets a number that its parent may not have.
_PARENT = "import os, subprocess, sys; os.environ['OMP_NUM_THREADS'] = '1'; "
_PARENT += "print(subprocess.check_output([sys.executable, '-c', sys.argv[1]], text=True), end='')"


@pytest.mark.parametrize(("told", "kept"), [(None, "None"), ("1", "1")])
def test_a_number_of_threads_that_nobody_asked_for_is_undone(told: str | None, kept: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if told is not None:
        environment["OMP_NUM_THREADS"] = told
    said = subprocess.check_output(
        [sys.executable, "-c", _PARENT, _CHILD], env=environment, text=True, timeout=60
    )
    assert said.strip() == kept
