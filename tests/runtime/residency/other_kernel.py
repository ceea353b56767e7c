"""A process of its own with neighbours, told what to do line by line; also its other end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


class OtherKernel:
    """One such process: `tell` gives what the method returned, as plain data."""

    def __init__(self, folder: Path, title: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.residency.other_kernel", str(folder), title],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def begin(self, method: str, *arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def tell(self, method: str, *arguments: Any) -> Any:
        self.begin(method, *arguments)
        return self.result()

    def kill(self) -> None:
        """Without a chance to clean up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> None:
        """As a kernel ends: the interpreter leaves in its own way."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@contextlib.contextmanager
def other_kernels(folder: Path, *titles: str) -> Iterator[list[OtherKernel]]:
    kernels = [OtherKernel(folder, title) for title in titles]
    try:
        yield kernels
    finally:
        for kernel in kernels:
            kernel.process.kill()
            kernel.process.wait(30)
            for pipe in (kernel.process.stdin, kernel.process.stdout):
                if pipe is not None and not pipe.closed:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


def main() -> None:
    from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
    from ollm_widgets.runtime.residency.surroundings import HeldRuntime

    neighbours = KernelNeighbours(Path(sys.argv[1]), sys.argv[2])
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        given: object = None
        if method == "publish":
            neighbours.publish([HeldRuntime(*each) for each in arguments])
        elif method in ("others", "pleas"):
            given = [asdict(each) for each in getattr(neighbours, method)()]
        elif method == "ask":
            given = [asdict(each) for each in neighbours.ask(*arguments)]
        elif method == "answer_all":
            pleas = neighbours.pleas()
            for plea in pleas:
                neighbours.answer(plea, arguments[0])
            given = len(pleas)
        elif method == "fork":
            # A child that lives on after its parent, and has begun to when this is answered.
            reading, writing = os.pipe()
            given = os.fork()
            if not given:
                os.write(writing, b"1")
                signal.pause()
            os.read(reading, 1)
        print(json.dumps(given), flush=True)


if __name__ == "__main__":
    main()
