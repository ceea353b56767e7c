"""The widgets' messages over a real kernel's comm, on the main shell and on a subshell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.notebook.conftest import Kernel

Message = dict[str, Any]


class Page:
    """The far end of one widget's comm, as a page would be."""

    def __init__(self, kernel: Kernel, comm_id: str) -> None:
        self._kernel = kernel
        self._comm_id = comm_id
        self.subshell_id: str | None = None
        self._heard: list[Message] = []

    def send(self, content: object) -> None:
        session = self._kernel.client.session
        data = {"method": "custom", "content": content}
        message = session.msg("comm_msg", {"comm_id": self._comm_id, "data": data})
        if self.subshell_id is not None:
            message["header"]["subshell_id"] = self.subshell_id
        self._kernel.client.shell_channel.send(message)

    def command(self, name: str, body: Message | None = None, command_id: str = "c1") -> None:
        self.send({"v": 1, "id": command_id, "name": name, "body": body or {}})

    def _next(self) -> Message:
        """Give the next custom message of this comm."""
        while True:
            message = self._kernel.client.get_iopub_msg(timeout=60)
            content = message["content"]
            ours = message["msg_type"] == "comm_msg" and content["comm_id"] == self._comm_id
            if ours and content["data"].get("method") == "custom":
                return dict(content["data"]["content"])

    def wait_for(self, wanted: Callable[[Message], bool]) -> Message:
        """Give the first message so far that is wanted, else the first that comes.

        What a command changes may be told before its reply, so nothing heard is dropped.
        """
        for message in self._heard:
            if wanted(message):
                return message
        while not wanted(message := self._next()):
            self._heard.append(message)
        self._heard.append(message)
        return message

    def until(self, kind: str) -> Message:
        return self.wait_for(lambda message: message["kind"] == kind)


@pytest.fixture
def page(kernel: Kernel) -> Iterator[Page]:
    made = kernel.run(
        "from ollm_widgets import Session, Workbench\n"
        "session = Session()\nworkbench = Workbench(session)\nprint(workbench.comm.comm_id)"
    )
    assert made.status == "ok", made.error
    yield Page(kernel, made.printed.strip())
    kernel.run("workbench.close(); session.close()")


def test_hello_is_acknowledged_and_followed_by_everything_a_view_needs(page: Page) -> None:
    page.command("hello", command_id="hi")
    assert page.until("ack")["id"] == "hi"
    snapshot = page.until("snapshot")
    assert snapshot["body"]["seq"] == snapshot["seq"]
    assert snapshot["body"]["title"] == "No model chosen"


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        "load",
        [],
        {},
        {"v": 1},
        {"v": 2, "id": "x", "name": "load"},
        {"v": 1, "id": "x", "name": "explode"},
        {"v": 1, "id": "", "name": "load"},
        {"v": 1, "id": "x", "name": "send", "body": {}},
        {"v": 1, "id": "x", "name": "send", "body": {"text": 7}},
        {"v": 1, "id": "x", "name": "edit", "body": {"field": "__class__", "value": "1"}},
        {"v": 1, "id": "x", "name": "load", "body": {}, "extra": True},
    ],
)
def test_a_malformed_message_is_refused_and_the_next_command_works(
    page: Page, malformed: object
) -> None:
    page.send(malformed)
    refusal = page.until("error")
    assert refusal["body"]["code"] == "bad-message"
    page.command("choose", {"reference": "smollm2-135m"}, "next")
    assert page.until("ack")["id"] == "next"
    planned = page.wait_for(
        lambda message: message["kind"] == "plan" and bool(message["body"]["executable"])
    )
    assert planned["body"]["headline"].startswith("Runs with optimized-native")


def test_what_cannot_be_done_now_is_an_error_with_a_hint(page: Page) -> None:
    page.command("send", {"text": "hello"})
    refusal = page.until("error")["body"]
    assert (refusal["code"], refusal["hint"]) == ("runtime-closed", "Press Load first.")


def test_a_command_is_answered_on_a_subshell_while_a_cell_runs(page: Page, kernel: Kernel) -> None:
    info = kernel.client.kernel_info(reply=True, timeout=30)["content"]
    if "kernel subshells" not in info.get("supported_features", []):
        pytest.skip("this ipykernel has no subshells")
    control = kernel.client.control_channel
    control.send(kernel.client.session.msg("create_subshell_request", {}))
    reply = kernel.client.get_control_msg(timeout=30)
    page.subshell_id = reply["content"]["subshell_id"]
    kernel.run("import threading; release = threading.Event(); seen = []")
    running = kernel.start("seen.append(release.wait(60))")
    page.command("search", {"text": "smol"}, "while-running")
    assert page.until("ack")["id"] == "while-running"
    page.subshell_id, subshell_id = None, page.subshell_id
    kernel.manager.interrupt_kernel()
    assert kernel.finish(running).status == "error"
    control.send(kernel.client.session.msg("delete_subshell_request", {"subshell_id": subshell_id}))
    kernel.client.get_control_msg(timeout=30)


def test_a_page_cannot_change_the_snapshot(page: Page, kernel: Kernel) -> None:
    session = kernel.client.session
    message = session.msg(
        "comm_msg",
        {
            "comm_id": page._comm_id,
            "data": {
                "method": "update",
                "state": {"snapshot": {"title": "forged"}},
                "buffer_paths": [],
            },
        },
    )
    kernel.client.shell_channel.send(message)
    assert kernel.run("print(workbench.snapshot['title'])").printed.strip() == "No model chosen"
