"""What goes wrong amid an answer, again and again, and leaves nothing behind.

``OLLM_ROUNDS`` says how often each; the moments are drawn from a fixed seed.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab, NotebookPage
from tests.browser.test_places import COUNT, SETUP_CELL
from tests.browser.test_workbench import (
    LONG_S,
    QUESTION,
    ask,
    last_answer,
    load_model,
    region,
    send_button,
    stop_button,
)

CHOSEN = os.environ.get("OLLM_ROUNDS", "").strip()
ROUNDS = int(CHOSEN or 2)
MOST_GROWTH_BYTES = 64e6
SETTLED = """\
import collections, gc, json, psutil, re, threading, time

def names():
    kept = (one.name for one in threading.enumerate() if not one.name.startswith("subshell"))
    return collections.Counter(re.sub(r"[0-9a-f-]*[0-9]+[0-9a-f-]*", "#", name) for name in kept)

def at_rest():
    in_use = [one.name for one in session.manager.residents() if one.in_use]
    return not (session.running or in_use)

def settled(allowed, limit_s=60):
    tick, deadline = threading.Event(), time.monotonic() + limit_s
    while time.monotonic() < deadline:
        left = names() - collections.Counter(allowed)
        if at_rest() and not left:
            break
        tick.wait(0.05)
    gc.collect()
    rss_bytes = psutil.Process().memory_info().rss
    print(json.dumps({"at_rest": at_rest(), "left": left, "rss_bytes": rss_bytes}))
"""
CELLS = [
    SETUP_CELL + SETTLED,
    "bench = Workbench(session)\nbench",
    f"%%ollm smollm2-135m --max-new-tokens 3000\n{COUNT}",
]
SETUP, BENCH, MAGIC = range(3)


@dataclass
class Patient:
    """A notebook with a workbench to which things happen, and what its kernel was like before."""

    notebook: NotebookPage
    chance: random.Random
    threads: dict[str, int]

    @property
    def workbench(self) -> Locator:
        return region(self.notebook.cell(BENCH), "Workbench")

    def set_up(self) -> None:
        self.notebook.run_cell(SETUP)
        self.notebook.run_cell(BENCH)
        load_model(self.workbench)
        self.get_an_answer()

    def get_an_answer(self) -> None:
        ask(self.workbench, QUESTION)
        expect(last_answer(self.workbench)).to_contain_text("Paris", timeout=LONG_S)
        expect(send_button(self.workbench)).to_be_visible(timeout=LONG_S)

    def come_to_a_random_moment(self) -> None:
        """Begin an answer that would go on for minutes; leave somewhere in its first words."""
        self.notebook.kernel_eval("session.conversation.clear()")
        ask(self.workbench, COUNT)
        if self.chance.random() < 0.5:  # else at once, before the kernel has even heard of it
            self.wait_for_some_of(last_answer(self.workbench))

    def wait_for_some_of(self, text: Locator) -> None:
        characters = self.chance.randint(1, 200)
        expect(text).to_contain_text(re.compile(rf"[\s\S]{{{characters}}}"), timeout=LONG_S)

    def recover(self) -> None:
        """Stop what may go on, and ask something else."""
        expect(region(self.workbench, "Chat")).to_be_visible()
        self.notebook.wait_idle()
        stop = stop_button(self.workbench)
        if stop.is_visible():
            stop.click()
        expect(send_button(self.workbench)).to_be_visible(timeout=LONG_S)
        self.notebook.kernel_eval("session.conversation.clear()")
        self.get_an_answer()

    def state(self) -> dict[str, object]:
        """What the kernel is like once it has come to rest, or has failed to."""
        told: dict[str, object] = json.loads(
            self.notebook.kernel_eval(f"settled({self.threads})", timeout_s=120)
        )
        return told


@pytest.fixture(scope="module")
def patient(lab_server: JupyterServer, chromium: Browser) -> Iterator[Patient]:
    lab = Lab(lab_server, chromium)
    patient = Patient(lab.open_notebook(CELLS), random.Random(20), {})
    patient.set_up()
    patient.threads = json.loads(patient.notebook.kernel_eval("print(json.dumps(names()))"))
    yield patient
    lab.close_notebooks()


def reload(patient: Patient) -> None:
    patient.come_to_a_random_moment()
    patient.notebook.reload()


def interrupt(patient: Patient) -> None:
    """Of an answer in a widget, which no interrupt is meant for, or in a cell, which it ends."""
    if patient.chance.random() < 0.5:
        patient.come_to_a_random_moment()
        patient.notebook.interrupt_kernel()
        return
    ticket = patient.notebook.start_cell(MAGIC)
    prompt = patient.notebook.cell(MAGIC).locator(".jp-InputPrompt")
    expect(prompt).to_have_text("[*]:")
    patient.wait_for_some_of(patient.notebook.output(MAGIC))
    patient.notebook.interrupt_kernel()
    patient.notebook.wait_for_run(ticket)
    expect(patient.notebook.output(MAGIC)).not_to_contain_text("Traceback")


def close(patient: Patient) -> None:
    patient.come_to_a_random_moment()
    patient.notebook.kernel_eval("bench.close()")
    patient.notebook.run_cell(BENCH)


def restart(patient: Patient) -> None:
    patient.come_to_a_random_moment()
    patient.notebook.restart_kernel()
    patient.set_up()


# Each restart loads the model anew; the tests of places do it once in each.
MISHAPS = [reload, interrupt, close, *([restart] if CHOSEN else [])]


@pytest.mark.parametrize("mishap", MISHAPS, ids=lambda mishap: mishap.__name__)
def test_a_mishap_amid_an_answer_leaves_nothing_behind(
    patient: Patient, mishap: Callable[[Patient], None]
) -> None:
    held_bytes: list[float] = []
    for _round in range(ROUNDS):
        mishap(patient)
        patient.recover()
        state = patient.state()
        assert state["at_rest"], "a job is stuck"
        assert not state["left"], "threads were left behind"
        held_bytes.append(float(str(state["rss_bytes"])))
    if mishap is not restart:  # each of whose kernels begins anew
        # The first round may fill caches that stay.
        assert held_bytes[-1] - held_bytes[0] < MOST_GROWTH_BYTES, held_bytes
    print(f"{mishap.__name__}: RSS in MB", *(round(one / 1e6) for one in held_bytes))
