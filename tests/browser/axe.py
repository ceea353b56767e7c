"""What axe-core finds wrong in our part of a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page

SCRIPT = Path(__file__).parents[2] / "js" / "node_modules" / "axe-core" / "axe.min.js"

_RUN = """async () => {
    const roots = [...document.querySelectorAll('.ollm')];
    for (const root of roots) for (const one of root.querySelectorAll('details')) one.open = true;
    // What is not drawn until it is scrolled to would not be looked at either.
    for (const root of roots) for (const one of root.querySelectorAll('article, article *')) {
        one.style.contentVisibility = 'visible';
    }
    // JupyterLab's body has no height and its shell cuts off what is scrolled away: axe would
    // take nearly all of our text for hidden, and not look at it.
    const cutting = new Set();
    for (const root of roots) {
        for (let at = root.parentElement; at; at = at.parentElement) cutting.add(at);
    }
    for (const one of cutting) one.style.setProperty('overflow', 'visible', 'important');
    const {violations, passes} = await axe.run({include: roots}, {elementRef: true});
    for (const one of cutting) one.style.removeProperty('overflow');
    // What a button shows of its state, and is described by, is no part of its label.
    const isLabelled = (element) => {
        const copy = element.cloneNode(true);
        for (const id of (element.getAttribute('aria-describedby') ?? '').split(' ')) {
            if (id) copy.querySelector('#' + CSS.escape(id))?.remove();
        }
        return copy.textContent.trim() === element.getAttribute('aria-label');
    };
    const grave = violations.filter(({impact}) => impact === 'serious' || impact === 'critical');
    for (const one of grave) {
        if (one.id === 'label-content-name-mismatch') {
            one.nodes = one.nodes.filter(({element}) => !isLabelled(element));
        }
    }
    return {
        grave: grave.flatMap(({id, nodes}) => nodes.map(
            ({html, any, all, none}) => `${id}: ${html.slice(0, 200)}\\n` +
                [...any, ...all, ...none].map(({message}) => `    ${message}`).join('\\n'),
        )),
        legible: passes.find(({id}) => id === 'color-contrast')?.nodes.length ?? 0,
    };
}"""


@dataclass(frozen=True)
class Audit:
    """Serious and critical violations, and how many texts have enough contrast."""

    grave: list[str]
    legible: int


def audit(page: Page) -> Audit:
    """Look at all our views of a page, with whatever is folded in them unfolded."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(SCRIPT.read_text(encoding="utf-8"))
    return Audit(**page.evaluate(_RUN))
