"""Hands that have no mouse: they press keys, and notice where the focus is."""

from __future__ import annotations

from playwright.sync_api import Locator

from tests.browser.lab import NotebookPage

# Looked at in every frame: what is taken out of the page, or disabled, may lose the focus
# without an event.
_WATCH = """() => {
    window.focusLost = [];
    if (window.focusWatched) return;
    window.focusWatched = true;
    const nowhere = () => !document.activeElement || document.activeElement === document.body;
    let held = '';
    const look = () => {
        if (!nowhere()) held = document.activeElement.outerHTML.slice(0, 160);
        else if (held) { window.focusLost.push(held); held = ''; }
        requestAnimationFrame(look);
    };
    look();
}"""

# Of what has the focus: whether it is ours, and what a person sees of it.
_FOCUSED = """() => {
    const element = document.activeElement;
    if (!element || element === document.body) return 'nothing has the focus';
    if (!element.closest('.ollm')) return '';
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
    const seen = box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight;
    if (!element.matches(':focus-visible')) return 'no focus ring: ' + element.outerHTML;
    if (!ring && style.boxShadow === 'none') return 'no focus ring: ' + element.outerHTML;
    return seen ? '' : 'out of sight: ' + element.outerHTML;
}"""

HAS_FOCUS = "element => element === document.activeElement"


class Keyboard:
    """Drives a page by keys alone.

    ``unseen`` holds what had the focus without a ring around it, or out of sight.
    """

    def __init__(self, notebook: NotebookPage) -> None:
        self._page = notebook.page
        self._page.evaluate(_WATCH)
        self._lost: list[str] = []
        self.unseen: list[str] = []

    def go_to(self, target: Locator, key: str = "Tab", most: int = 150) -> None:
        """Press Tab, or Shift+Tab, until `target` has the focus."""
        self._lost += self._heard()
        for _press in range(most):
            if target.count() and target.evaluate(HAS_FOCUS):
                self._heard()  # the way may have led around, past the page's end
                return
            self.press(key)
        raise AssertionError(f"{most} times {key} did not lead to {target}.")

    def press(self, *keys: str) -> None:
        """Press keys one after another."""
        for key in keys:
            self._page.keyboard.press(key)
            if wrong := self._page.evaluate(_FOCUSED):
                self.unseen.append(f"after {key}: {wrong}"[:240])

    def type(self, text: str) -> None:
        """Type `text` into what has the focus, instead of what is there."""
        self._page.keyboard.press("Control+a")
        self._page.keyboard.type(text)

    @property
    def lost(self) -> list[str]:
        """What had the focus when something a person did let it fall to the page as a whole."""
        self._lost += self._heard()
        return self._lost

    def _heard(self) -> list[str]:
        heard: list[str] = self._page.evaluate("window.focusLost.splice(0)")
        return heard
