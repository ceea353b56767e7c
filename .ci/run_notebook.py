"""Run notebooks top to bottom in a kernel and print each cell with its output as it comes.

``run_notebook.py examples/01_quickstart.ipynb ...`` leaves the files as they are and exits with 1
at the first cell that fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError


class EchoingClient(NotebookClient):
    """Prints what arrives, when it arrives."""

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        content = msg["content"]
        match msg["msg_type"]:
            case "stream":
                print(content["text"], end="", flush=True)
            case "display_data" | "update_display_data" | "execute_result":
                if text := content["data"].get("text/plain"):
                    print(text, flush=True)
        return super().process_message(msg, cell, cell_index)


def run(path: Path, timeout_s: int) -> None:
    notebook = nbformat.read(path, as_version=4)

    def announce(cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code":
            source = "\n".join(f"    {line}" for line in cell.source.splitlines())
            print(f"\n[{cell_index}]\n{source}\n", flush=True)

    EchoingClient(
        notebook,
        timeout=timeout_s,
        kernel_name="python3",
        # The kernel's warning about its TCP sockets is of no use to who reads this.
        extra_arguments=["--log-level=ERROR"],
        on_cell_start=announce,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--timeout", type=int, default=300, help="seconds a cell may take")
    options = parser.parse_args()
    for path in options.notebooks:
        print(f"== {path}", flush=True)
        started = time.monotonic()
        try:
            run(path, options.timeout)
        except (CellExecutionError, CellTimeoutError, DeadKernelError, OSError) as error:
            print(f"\n{path} failed: {error}", file=sys.stderr)
            return 1
        print(f"\nall cells ran, {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
