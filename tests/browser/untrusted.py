"""Texts that want to run or fetch something in a page, and who notices when one does."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Dialog, Locator, Page, Request

# A line is a kind and a text, as JSON. In it RUN stands for a script that leaves its number in
# the page, NET for an address on the web and REL for one on the page's own server.
FILE = Path(__file__).with_name("untrusted.jsonl")

# What a handler could wait for; none of it reaches the elements around.
_EVENTS = (
    "animationend animationstart auxclick beforeinput beforetoggle begin blur cancel change close "
    "contextmenu copy cut dblclick drag error focus focusin input keydown keyup load loadstart "
    "mousedown mouseenter mouseover mouseup paste pointerdown pointerenter pointerover reset "
    "scroll select start submit toggle touchstart transitionend wheel"
)

_PROVOKE = """(elements, events) => {
    const stay = (event) => {
        const link = event.target.closest?.('a[href]');
        if (link && !/^(javascript|vbscript|data|blob):$/.test(link.protocol)) {
            event.preventDefault();
        }
    };
    document.addEventListener('click', stay, true);
    for (const element of elements) {
        for (const name of events.split(' ')) {
            element.dispatchEvent(new Event(name, {cancelable: true}));
        }
        if (element.localName === 'details') element.open = true;
        element.dispatchEvent(new MouseEvent('click', {cancelable: true}));
    }
    document.removeEventListener('click', stay, true);
}"""

# A picture of the server's own ends as late as any that a text has asked for before it.
_SETTLE = """() => new Promise((done) => {
    const picture = new Image();
    picture.onload = picture.onerror = () => setTimeout(done);
    picture.src = `/favicon.ico?${Math.random()}`;
})"""

_STRANGERS = """(elements, [tags, attributes]) => {
    const found = [];
    for (const element of elements) {
        if (!tags.includes(element.localName)) found.push(element.outerHTML.slice(0, 200));
        for (const {name, value} of element.attributes) {
            const link = name === 'href' && /^(https?|mailto):/.test(value);
            if (!link && !attributes.includes(name)) found.push(`${name}=${value.slice(0, 200)}`);
        }
    }
    return found;
}"""


@dataclass(frozen=True)
class Payload:
    """A text and what it tries."""

    kind: str
    text: str

    @property
    def is_a_file_name(self) -> bool:
        """Whether a folder can be called so."""
        return (
            not re.search(r"[/\0]", self.text)
            and not self.text.startswith(".")
            and len(self.text.encode()) <= 200
        )


def payloads() -> list[Payload]:
    """All of them, in the order of the file."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [Payload(kind, _armed(text, n)) for n, (kind, text) in enumerate(map(json.loads, lines))]


def _armed(text: str, number: int) -> str:
    return (
        text.replace("RUN", f"__pwned({number})")
        .replace("NET", f"https://evil.invalid/{number}")
        .replace("REL", f"leak-{number}")
    )


def strangers(elements: Locator, tags: str, attributes: str) -> list[str]:
    """Those that are none of these, and their other attributes; a link to the web is no other."""
    found: list[str] = elements.evaluate_all(_STRANGERS, [tags.split(), attributes.split()])
    return found


class Watch:
    """Remembers whatever runs, opens, asks or fetches in a page from now on."""

    def __init__(self, page: Page, own_url: str) -> None:
        self._page = page
        self._own = (own_url, own_url.replace("http", "ws", 1), "data:", "blob:")
        self.happened: list[str] = []
        self.ran: set[int] = set()
        self.opened: list[str] = []
        page.context.on("request", self._on_request)
        page.context.on("page", lambda opened: self.opened.append(opened.url))
        page.on("download", lambda download: self.happened.append(f"saved {download.url}"))
        page.on("dialog", self._on_dialog)
        # In every frame, and after every navigation.
        page.context.expose_binding("__pwned", lambda _source, number: self.ran.add(number))

    def provoke(self, elements: Locator) -> None:
        """Do to each what a person could, except to follow links to other pages, and wait."""
        elements.evaluate_all(_PROVOKE, _EVENTS)
        self._page.evaluate(_SETTLE)

    def assert_nothing_happened(self) -> None:
        """Fail if anything ran, or left the page."""
        texts = payloads()
        assert not [texts[number] for number in self.ran], "ran"
        assert not self.happened, self.happened
        assert not self.opened, self.opened

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(self._own) or "leak-" in request.url:
            self.happened.append(f"asked for {request.url}")

    def _on_dialog(self, dialog: Dialog) -> None:
        self.happened.append(f"asked {dialog.message}")
        dialog.dismiss()
