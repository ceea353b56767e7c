"""A real kernel, driven through its own protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Outcome:
    """What running a cell gave."""

    status: str
    printed: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""  # what a person sees in red, without colours


class Kernel:
    """Runs cells one after another."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def run(self, code: str, timeout_s: float = 120) -> Outcome:
        return self.finish(self.start(code), timeout_s)

    def start(self, code: str) -> str:
        # A failing cell must not abort the next one, which old kernels may still have queued.
        return self.client.execute(code, stop_on_error=False, allow_stdin=False)

    def messages(self, request: str, timeout_s: float = 120) -> Iterator[dict[str, Any]]:
        """Yield what a request broadcasts, until the kernel is idle again."""
        while True:
            message = self.client.get_iopub_msg(timeout=timeout_s)
            if message["parent_header"].get("msg_id") != request:
                continue
            yield message
            if message["content"].get("execution_state") == "idle":
                return

    def finish(self, request: str, timeout_s: float = 120) -> Outcome:
        outcome = Outcome("ok")
        for message in self.messages(request, timeout_s):
            content = message["content"]
            match message["msg_type"]:
                case "stream" if content["name"] == "stderr":
                    outcome.error += content["text"]
                case "stream":
                    outcome.printed += content["text"]
                case "execute_result" | "display_data":
                    outcome.results.append(content["data"])
                case "error":
                    outcome.error += ANSI.sub("", "\n".join(content["traceback"]))
        reply = self.client.get_shell_msg(timeout=timeout_s)
        while reply["parent_header"].get("msg_id") != request:
            reply = self.client.get_shell_msg(timeout=timeout_s)
        outcome.status = reply["content"]["status"]
        return outcome

    def complete(self, code: str) -> list[str]:
        reply = self.client.complete(code, len(code), reply=True, timeout=60)
        return list(reply["content"]["matches"])


@pytest.fixture(scope="module")
def bare_kernel() -> Iterator[Kernel]:
    """A fresh kernel without the extension."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(Path(__file__).parents[2]))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield Kernel(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel(bare_kernel: Kernel, converted_smollm: Path) -> Kernel:
    """A kernel with the extension and the embedded model loaded in float32."""
    assert converted_smollm.is_dir()
    assert bare_kernel.run("%load_ext ollm").status == "ok"
    loaded = bare_kernel.run("%ollm load smollm2-135m --dtype float32")
    assert loaded.status == "ok", loaded.error
    return bare_kernel
