"""A conversation as HTML, Markdown and text: what was said is always text, never HTML."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from ollm_widgets.render.terminal import harmless
from ollm_widgets.render.text import WIDTH

# Three or more backticks or tildes at the beginning of a line open code, as many close it.
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*$", re.MULTILINE)
_STYLE = (
    ".ollm-card .oc-turn{margin-top:8px}"
    ".ollm-card .oc-turn>b{font-size:12px;font-weight:600;color:var(--oc-d)}"
    ".ollm-card .oc-turn>div{white-space:pre-wrap;overflow-wrap:anywhere}"
    ".ollm-card .oc-turn>pre{margin:4px 0;padding:6px 10px;overflow-x:auto;border:1px solid"
    " var(--oc-l);border-radius:4px;background:none;color:inherit;font-size:12px;"
    "font-family:var(--jp-code-font-family,ui-monospace,'DejaVu Sans Mono',monospace)}"
    ".ollm-card .oc-turn>small{color:var(--oc-d)}"
)


@dataclass(frozen=True, slots=True)
class Said:
    """What one speaker said.

    Parameters
    ----------
    speaker
        ``"You"``, or the model's name.
    text
        As it was said, in whatever form.
    note
        How it came about: ``"24 tokens, 19.8 tokens/s"``.
    """

    speaker: str
    text: str
    note: str = ""


def talk_to_html(turns: tuple[Said, ...]) -> str:
    """Return the turns as HTML for the body of a card; empty without one."""
    if not turns:
        return ""
    return f"<style>{_STYLE}</style>" + "".join(map(_turn, turns))


def _turn(said: Said) -> str:
    note = f"<small>{escape(said.note)}</small>" if said.note else ""
    pieces = "".join(
        f"<pre>{escape(text)}</pre>" if is_code else f"<div>{escape(text)}</div>"
        for text, is_code in _pieces(said.text)
    )
    return f'<div class="oc-turn"><b>{escape(said.speaker)}</b>{pieces}{note}</div>'


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Split a text at its fences: each piece, and whether it is code."""
    at = 0
    while (fence := _FENCE.search(text, at)) is not None:
        if before := text[at : fence.start()].strip("\n"):
            yield before, False
        begin = fence.end() + 1
        mark = re.escape(fence[1])
        closing = re.compile(rf"^ {{0,3}}{mark}{re.escape(mark[-1])}*[ \t]*$", re.MULTILINE)
        end = closing.search(text, begin)
        code = text[begin : end.start() if end else len(text)].rstrip("\n")
        if code:
            yield code, True
        at = end.end() if end else len(text)
    if rest := text[at:].strip("\n"):
        yield rest, False


def talk_to_markdown(turns: tuple[Said, ...]) -> str:
    """Return the turns as Markdown, each as a block of plain text that nothing in it can end."""
    parts = []
    for said in turns:
        longest = max((len(run) for run in re.findall(r"`+", said.text)), default=0)
        fence = "`" * max(3, longest + 1)
        note = f" ({harmless(said.note)})" if said.note else ""
        speaker = " ".join(said.speaker.split()).replace("*", "")
        parts.append(f"{speaker}{note}:\n\n{fence}text\n{harmless(said.text)}\n{fence}")
    return "\n\n".join(parts)


def talk_to_text(turns: tuple[Said, ...]) -> str:
    """Return the turns as lines for a terminal."""
    lines: list[str] = []
    for said in turns:
        lines.append(f"  {harmless(said.speaker)}:")
        for line in harmless(said.text).splitlines():
            lines += textwrap.wrap(
                line, WIDTH, initial_indent="    ", subsequent_indent="    "
            ) or [""]
        if said.note:
            lines.append(f"    [{harmless(said.note)}]")
    return "\n".join(lines)
