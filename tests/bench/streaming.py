"""Streaming under load: five widgets, one of them in three views, and 1,000 tokens a second.

Run: ``python tests/bench/streaming.py [--seconds 60] [--tokens-per-s 1000] [--compute-s 0.001]``

A real JupyterLab, Chromium, kernel, session and comms. The model alone is made up: its pieces
come at that pace from the loaded runtime's own thread (`tests/browser/synthetic.py`). Frames and
times depend on what else the machine does, so that the page at rest and an empty page stand
beside them, and the load of the machine. The processor time of the kernel's senders and of the
page's main thread depends on it less.

After that the same model computes for a while for each token, as fast as it can, in turns with
all widgets and with none: the difference is what they cost it.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ |= {"HF_HUB_OFFLINE": "1", "OLLM_OBSERVE": "0", "OMP_NUM_THREADS": "1"}

import machine  # noqa: E402  (from here on what the path above leads to)
from playwright.sync_api import Locator  # noqa: E402
from table import Goal, Table  # noqa: E402

from tests.browser.chromium import running_chromium  # noqa: E402
from tests.browser.gauges import (  # noqa: E402
    Frames,
    PageWork,
    end_watch,
    frames_of,
    open_widgets,
    shown,
    watch,
)
from tests.browser.jupyter_server import JupyterServer  # noqa: E402
from tests.browser.lab import Lab, NotebookPage  # noqa: E402
from tests.browser.synthetic import save_model  # noqa: E402

FRAMES = Goal("frames", 30, "frames/s", at_least=True)
SENDERS = Goal("senders", 2, "% of the time")
SLOWER = Goal("slower", 2, "% slower")
LOST = Goal("lost", 0, "tokens")
PATIENCE_S = 240
ROUNDS, ROUND_TOKENS = 8, 2500


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--tokens-per-s", type=int, default=1000)
    parser.add_argument("--compute-s", type=float, default=0.001)
    options = parser.parse_args()
    print(machine.describe())
    with (
        tempfile.TemporaryDirectory() as folder,
        running_chromium(Path(folder, "profile")) as browser,
    ):
        model = save_model(Path(folder) / "tiny")
        server = JupyterServer(Path(folder) / "home", "lab")
        try:
            lab = Lab(server, browser)
            notebook, logs = open_widgets(lab, model)
            empty = notebook.page.context.new_page()
            at_rest = {"an empty page": frames_of(empty, 5)}
            empty.close()
            at_rest["the page at rest"] = frames_of(notebook.page, 5)
            table = Table("what", "figure", "goal")
            for name, frames in at_rest.items():
                add_frames(table, name, frames, None)
            stream(notebook, logs, options.seconds, options.tokens_per_s, table)
            overhead(notebook, options.compute_s, table)
            print(table)
            lab.close_notebooks()
        finally:
            server.stop()


def stream(
    notebook: NotebookPage, logs: list[Locator], seconds: int, tokens_per_s: int, table: Table
) -> None:
    """Let an answer come, and add what kernel and page had to do for it."""
    tokens = seconds * tokens_per_s
    notebook.kernel_eval(
        f"came = synthetic.answer_at(runtime, synthetic.Pace({tokens}, {tokens_per_s}))"
    )
    work = PageWork(notebook.page)
    watch(notebook)
    # Asks for the figures itself, since the sender's threads must be alive when it does.
    used = evaluate(
        notebook,
        "before = synthetic.processor_s(); session.send('go'); "
        f"synthetic.wait(lambda: len(came) == {tokens}, {seconds + PATIENCE_S}); "
        "after = synthetic.processor_s(); "
        "print({name: after[name] - before.get(name, 0.0) for name in after})",
        seconds + PATIENCE_S,
    )
    took_s = float(notebook.kernel_eval("print(came[-1] - came[0])"))
    frames, wire = end_watch(notebook)
    page = work.since()
    load = os.getloadavg()[0]
    notebook.kernel_eval(f"synthetic.wait(lambda: not session.running, {PATIENCE_S})")
    kernel = evaluate(notebook, "print(synthetic.said(session))")
    seen = [until_same(log, kernel, notebook) for log in logs]

    add_frames(table, f"the page, {tokens:,} tokens in {took_s:.0f} s", frames, FRAMES)
    lost = sum(kernel["words"] - one["words"] for one in seen) + tokens - kernel["words"]
    same = all(one["digest"] == kernel["digest"] for one in seen)
    words = "the same words" if same else "OTHER WORDS"
    table.add(f"lost, {len(seen)} views", f"{lost} ({words} in all)", LOST.verdict(lost))
    for name in ("ollm-sender", "IOPub", "ollm-chat"):
        share = 100 * used.get(name, 0.0) / took_s
        verdict = SENDERS.verdict(share) if name == "ollm-sender" else ""
        table.add(f"processor time, {name}", f"{share:.2f} %", verdict)
    for name, spent_s in page.items():
        table.add(f"processor time, page, {name}", f"{100 * spent_s / took_s:.1f} %", "")
    table.add("from kernel to page", f"{wire['messages'] / took_s:.0f} messages/s", "")
    table.add("", f"{wire['bytes'] / took_s / 1000:.0f} kB/s", "")
    table.add("the text itself", f"{kernel['bytes'] / took_s / 1000:.1f} kB/s", "")
    table.add("load of the machine", f"{load:.1f} on {os.cpu_count()} cores", "")


def overhead(notebook: NotebookPage, compute_s: float, table: Table) -> None:
    """Compare an answer that all widgets show with one that none shows, in turns."""
    steps: dict[str, list[float]] = {"session": [], "unseen": []}
    notebook.kernel_eval(
        "unseen = Session(session.manager); unseen.choose(runtime.plan.config.model_reference); "
        "synthetic.wait(lambda: unseen.runtime_id is not None, 60); "
        "session.conversation.clear(); "
        f"step = synthetic.computing({compute_s}); "
        f"came = synthetic.answer_at(runtime, synthetic.Pace({ROUND_TOKENS}, 0.0, step))"
    )
    for _round in range(ROUNDS):
        for name, times in steps.items():
            times.append(
                evaluate(
                    notebook,
                    f"{name}.send('go'); "
                    f"synthetic.wait(lambda: not {name}.running, {PATIENCE_S}); "
                    f"{name}.conversation.clear(); "
                    "print((came[-1] - came[0]) / (len(came) - 1))",
                    PATIENCE_S,
                )
            )
    # The shortest: on a machine that others use too, they make some rounds longer.
    with_s, without_s = (min(times) for times in steps.values())
    slower = 100 * (with_s / without_s - 1)
    table.add(
        f"a computed token, best of {ROUNDS}",
        f"{1e3 * with_s:.3f} ms, without widgets {1e3 * without_s:.3f} ms: {slower:+.1f} %",
        SLOWER.verdict(slower),
    )


def until_same(log: Locator, kernel: dict[str, Any], notebook: NotebookPage) -> dict[str, Any]:
    """Look at a conversation until it shows what the kernel has, or for long enough."""
    for _look in range(PATIENCE_S):
        seen = shown(log)
        if seen["digest"] == kernel["digest"]:
            break
        notebook.page.wait_for_timeout(1000)
    return seen


def evaluate(notebook: NotebookPage, code: str, timeout_s: float = 60) -> Any:
    """Run code in the kernel; the value that it printed."""
    return ast.literal_eval(notebook.kernel_eval(code, timeout_s))


def add_frames(table: Table, name: str, frames: Frames, goal: Goal | None) -> None:
    """Add a page's frames; the goal is one for what most frames keep."""
    rate = 1 / frames.median_s
    table.add(name, f"{rate:.0f} frames/s (median)", goal.verdict(rate) if goal else "")
    table.add("", f"{frames.per_s:.0f} frames/s (mean)", goal.verdict(frames.per_s) if goal else "")
    slow = f"1 in 20 frames over {1e3 * frames.slow_s:.0f} ms"
    table.add("", f"{slow}, longest {1e3 * frames.longest_s:.0f} ms", "")


if __name__ == "__main__":
    main()
