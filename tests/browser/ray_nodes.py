"""A Ray cluster of two nodes on this machine, in a process of its own, which is not the kernel's.

``python -m tests.browser.ray_nodes`` prints its address, and ends it with its standard input.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.on_ray.real_ray import ENVIRONMENT, NODES, RealRay, only_ray

_ENDS_S = 60


@contextmanager
def two_nodes() -> Iterator[str]:
    """Run ``node-a`` and ``node-b``; gives the address of the cluster."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=Path(__file__).parents[2],
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # Ray prints lines of its own.
        for line in process.stdout:
            if line.startswith("address "):
                break
        else:
            raise RuntimeError("Ray did not start.")
        yield line.split()[1]
    finally:
        process.stdin.close()
        try:
            process.wait(_ENDS_S)
        finally:
            process.kill()
            process.stdout.close()


def _run() -> None:
    with only_ray():
        nodes = RealRay()
        nodes.add_node(NODES[1])
        print("address", nodes.address, flush=True)
        sys.stdin.read()
        nodes.end()


if __name__ == "__main__":
    _run()
