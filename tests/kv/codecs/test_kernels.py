"""The kernel that decodes quantized pages, run by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
def test_the_kernel_gives_the_bits_of_torch() -> None:
    # Triton decides by its environment whether it interprets, when it is first imported.
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("interpreted.py"))],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "right"
