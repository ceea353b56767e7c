"""A page full of widgets, and what it notices of a stream: frames, messages, words."""

from __future__ import annotations

import hashlib
import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.browser.lab import PANEL, Lab, NotebookPage

ROOT = Path(__file__).parents[2]
SETUP = """\
import sys
sys.path.insert(0, {root!r})
from ollm_widgets import CapabilityCard, Chat, LoadPanel, RuntimeShelf, Session, Workbench
from tests.browser import synthetic
session = Session()
runtime = synthetic.load(session, {reference!r})
chat = Chat(session)
"""
# Five widgets, one of them in three views; the conversation is drawn four times.
CELLS = (
    "Workbench(session)",
    "chat",
    "chat",
    "chat",
    "CapabilityCard(session)",
    "RuntimeShelf(session)",
    "LoadPanel(session)",
)
CONVERSATIONS = 4

WATCH_FRAMES = """() => {
    const frames = [];
    let running = true;
    const note = (now) => { frames.push(now); if (running) requestAnimationFrame(note); };
    requestAnimationFrame(note);
    window.endFrames = () => { running = false; return frames; };
}"""
WATCH_WIRE = f"""() => {{
    {PANEL}
    const socket = panel.sessionContext.session.kernel._ws;
    const wire = {{messages: 0, bytes: 0}};
    const note = ({{data}}) => {{
        wire.messages += 1;
        wire.bytes += data.byteLength ?? data.length;
    }};
    socket.addEventListener('message', note);
    window.endWire = () => {{ socket.removeEventListener('message', note); return wire; }};
}}"""
# Text node by text node: blocks follow each other without a space.
WORDS = """(log) => {
    const answer = [...log.querySelectorAll('article[aria-label=model]')].at(-1);
    const walker = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT);
    const words = [];
    while (walker.nextNode()) words.push(...walker.currentNode.data.match(/\\bT[0-9A-Z]+/g) ?? []);
    return words;
}"""
METRICS = {"all": "TaskDuration", "scripts": "ScriptDuration", "layout": "LayoutDuration"}


@dataclass(frozen=True, slots=True)
class Frames:
    """How often a page could draw.

    Parameters
    ----------
    median_s, slow_s, longest_s
        Time from one animation frame to the next: the median, what one in twenty exceeds, and
        the longest.
    per_s
        Frames a second over the whole time.
    slowest_second
        Frames in the second that had the fewest.
    """

    median_s: float
    slow_s: float
    longest_s: float
    per_s: float
    slowest_second: int

    @classmethod
    def of(cls, times_ms: list[float]) -> Frames:
        """Take the moments at which frames began."""
        gaps = [(after - before) / 1000 for before, after in itertools.pairwise(times_ms)]
        seconds: dict[int, int] = dict.fromkeys(range(int((times_ms[-1] - times_ms[0]) / 1000)), 0)
        for moment in times_ms:
            second = int((moment - times_ms[0]) / 1000)
            if second in seconds:
                seconds[second] += 1
        return cls(
            statistics.median(gaps),
            statistics.quantiles(gaps, n=20)[-1],
            max(gaps),
            len(gaps) / sum(gaps),
            min(seconds.values(), default=len(times_ms)),
        )


def open_widgets(lab: Lab, model: Path) -> tuple[NotebookPage, list[Locator]]:
    """Show five widgets of one session that has a model loaded; gives the conversations."""
    setup = SETUP.format(root=str(ROOT), reference=f"path:{model}")
    notebook = lab.open_notebook([setup, *CELLS])
    notebook.run_all()
    logs = notebook.page.get_by_role("log", name="Conversation")
    expect(logs).to_have_count(CONVERSATIONS)
    return notebook, logs.all()


def frames_of(page: Page, seconds: float) -> Frames:
    """Count a page's frames for a while."""
    page.evaluate(WATCH_FRAMES)
    page.wait_for_timeout(seconds * 1000)
    return Frames.of(page.evaluate("endFrames()"))


def watch(notebook: NotebookPage) -> None:
    """Begin to count the frames of a page, and what its kernel sends it."""
    notebook.page.evaluate(WATCH_FRAMES)
    notebook.page.evaluate(WATCH_WIRE)


def end_watch(notebook: NotebookPage) -> tuple[Frames, dict[str, int]]:
    """Return what was counted: frames, and messages and bytes of the kernel's connection."""
    frames: list[float] = notebook.page.evaluate("endFrames()")
    wire: dict[str, int] = notebook.page.evaluate("endWire()")
    return Frames.of(frames), wire


def shown(log: Locator) -> dict[str, Any]:
    """How many tokens the last answer of a conversation shows, and a digest of its words."""
    words: list[str] = log.evaluate(WORDS)
    return {"words": len(words), "digest": hashlib.sha256(" ".join(words).encode()).hexdigest()}


class PageWork:
    """Processor time of a page's main thread from now on, without what it waits for a core."""

    def __init__(self, page: Page) -> None:
        self._devtools = page.context.new_cdp_session(page)
        self._devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._before = self._figures()

    def since(self) -> dict[str, float]:
        """Seconds so far: all of it, and what scripts and layout took."""
        return {name: now - self._before[name] for name, now in self._figures().items()}

    def _figures(self) -> dict[str, float]:
        metrics = self._devtools.send("Performance.getMetrics")["metrics"]
        values = {metric["name"]: metric["value"] for metric in metrics}
        return {name: values[metric] for name, metric in METRICS.items()}
