"""Ten thousand messages of a page that means no good, to a widget in a real kernel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jupyter_client.jsonutil import json_default

from ollm_widgets.protocol.snapshot import Snapshot
from tests.notebook.conftest import Kernel
from tests.protocol.fuzzing import Fuzzer, Message
from tests.protocol.test_inbox import COMMANDS, sound

MESSAGES = 10_000
BATCH = 200  # their answers have room in the queue of the one who reads them
SETUP = """\
import os, threading
# Nothing that a message names may be something of this machine's user.
os.environ["OLLM_MODELS_DIR"] = os.environ["OLLM_CACHE_DIR"] = {home!r} + "/managed"
os.environ["HF_HUB_CACHE"] = {home!r} + "/hub"
import torch
torch.set_num_threads(1)
from ollm_widgets import GenerationConfig, RuntimeManager, Session, Workbench
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
from pathlib import Path
manager = RuntimeManager(busy_wait_s=0.1, neighbours=KernelNeighbours(Path({home!r}) / "devices"))
session = Session(manager, GenerationConfig(max_new_tokens=4))
workbench = Workbench(session)
print(workbench.comm.comm_id)
"""


class Page:
    """The far end of one widget's comm, which hears whether the kernel complains."""

    def __init__(self, kernel: Kernel, comm_id: str) -> None:
        self._session = kernel.client.session
        # As a page would: half a surrogate pair is sent, and what is no number.
        self._session.pack = lambda content: json.dumps(content, default=json_default).encode()
        self._client = kernel.client
        self._comm_id = comm_id
        self.complaints: list[str] = []

    def send(self, data: Message) -> None:
        message = self._session.msg("comm_msg", {"comm_id": self._comm_id, "data": data})
        self._client.shell_channel.send(message)

    def ask(self, contents: list[Any]) -> list[Message]:
        """Send them all; gives as many replies, in their order."""
        for content in contents:
            self.send({"method": "custom", "content": content})
        return [self.hear("ack", "error") for _ in contents]

    def command(self, name: str, **body: object) -> Message:
        (reply,) = self.ask([{"v": 1, "id": name, "name": name, "body": body}])
        return reply

    def hear(self, *kinds: str) -> Message:
        """Give the next message of the widget of one of these kinds."""
        while True:
            message = self._client.get_iopub_msg(timeout=60)
            content = message["content"]
            if message["msg_type"] in ("stream", "error"):
                self.complaints.append(str(content))
            data = content.get("data") or {}
            ours = message["msg_type"] == "comm_msg" and content["comm_id"] == self._comm_id
            if ours and data.get("method") == "custom" and data["content"]["kind"] in kinds:
                return dict(data["content"])


@pytest.fixture
def home(saved_llama: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved_llama, tmp_path / "tiny")
    return tmp_path


@pytest.fixture
def page(bare_kernel: Kernel, home: Path) -> Page:
    made = bare_kernel.run(SETUP.format(home=str(home)))
    assert made.status == "ok", made.error
    return Page(bare_kernel, made.printed.strip())


def test_ten_thousand_messages_are_each_answered_and_then_a_model_loads_and_speaks(
    page: Page, home: Path
) -> None:
    reference = f"path:{home / 'tiny'}"
    known = [reference, "tiny", "turn-1", "turn-2", "w3 w4"]
    fuzzer = Fuzzer(7, list(COMMANDS.values()), known)
    kinds = {"ack": 0, "error": 0}
    for _ in range(MESSAGES // BATCH):
        sent = [fuzzer.next() for _ in range(BATCH)]
        # A page may not set anything either.
        page.send({"method": "update", "state": {"snapshot": sent[0], "comm": sent[1]}})
        for content, reply in zip(sent, page.ask(sent), strict=True):
            sound(reply, content)
            kinds[reply["kind"]] += 1
    assert kinds["ack"] > MESSAGES / 10
    assert kinds["error"] > MESSAGES / 10
    assert page.complaints == []

    for command in ("cancel", "stop", "clear"):
        assert page.command(command)["kind"] == "ack"
    assert page.command("choose", reference=reference)["kind"] == "ack"
    assert page.command("resync")["kind"] == "ack"
    snapshot = msgspec.convert(page.hear("snapshot")["body"], Snapshot)
    assert snapshot.chat.turns == ()
    assert page.command("load", anyway=False)["kind"] == "ack"
    while page.hear("loading")["body"]["state"] != "loaded":
        pass
    assert page.command("send", text="w3")["kind"] == "ack"
    while page.hear("chat")["body"]["busy"]:
        pass
    assert page.complaints == []
