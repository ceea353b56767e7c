"""Pictures of the tokens themselves: colours, scales, and the states of the controls."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from playwright.sync_api import Locator, Page

COLOURS = {
    "Text and surfaces": ("ink", "dim", "faint", "edge", "line", "sunk", "bg"),
    "Places": ("gpu", "ram", "disk", "used"),
    "Kinds": ("kv", "act", "stage"),
    "How it is": ("ok", "warn", "no"),
    "Chosen, in trouble": ("chosen", "warn-tint", "no-tint", "hover", "press"),
}
SIZES = ("fine", "small", "body", "title", "large", "figure")
RADII = ("-bar", "", "-card", "-frame", "-pill")
CONTROLS = {
    "Next step": '<button class="ollm-go">Load</button>',
    "Button": "<button>Copy as code</button>",
    "Quiet button": '<button class="ollm-quiet">Retry</button>',
    "Choice": '<span class="ollm-presets"><button>Fastest</button></span>',
    "Field": '<input value="4,096" aria-label="Context">',
    "List": "<select><option>auto: resident</option></select>",
}
STATES = ("at rest", "hover", "pressed", "focus", "disabled")
FORCED = {"hover": ["hover"], "pressed": ["hover", "active"], "focus": ["focus", "focus-visible"]}

SHOW = """html => {
    document.querySelector('#specimen')?.remove();
    const place = document.createElement('div');
    place.id = 'specimen';
    place.className = 'ollm';
    place.style.cssText = 'position: fixed; z-index: 99; inset: 0 auto auto 0; padding: 16px;' +
        'background: var(--ollm-bg); box-shadow: 0 0 0 2px var(--ollm-bg)';
    place.innerHTML = html;
    document.body.append(place);
}"""


# Which text lies on which surfaces.
TEXT_ON = {
    ("ink", "dim", "ok", "warn", "no"): ("bg", "sunk", "chosen", "warn-tint", "no-tint"),
    ("label",): ("gpu", "ram", "disk", "kv", "act", "stage"),
    ("label-used",): ("used",),
    ("faint",): ("bg",),
}
LEAST_CONTRAST = 4.5
LEAST_CONTRAST_OF_EDGES = 3.0

# As they are painted: a surface may be a veil over the background.
CONTRAST = """(root, [text, surface]) => {
    const brush = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const probe = root.appendChild(document.createElement('i'));
    const luminance = (names) => {
        for (const name of names) {
            probe.style.color = `var(--ollm-${name})`;
            brush.fillStyle = getComputedStyle(probe).color;
            brush.fillRect(0, 0, 1, 1);
        }
        const [red, green, blue] = [...brush.getImageData(0, 0, 1, 1).data].map((part) =>
            part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4
        );
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const [darker, lighter] =
        [luminance(['bg', surface]), luminance(['bg', surface, text])].sort((a, b) => a - b);
    probe.remove();
    return (lighter + 0.05) / (darker + 0.05);
}"""


def too_faint(page: Page) -> list[str]:
    """Which text, or edge of a control in use, can hardly be told from what is below it."""
    root = page.locator(".jp-Notebook .ollm").first
    wrong = []
    for texts, surfaces in TEXT_ON.items():
        for text, surface in itertools.product(texts, surfaces):
            contrast = root.evaluate(CONTRAST, [text, surface])
            if contrast < (LEAST_CONTRAST_OF_EDGES if text == "faint" else LEAST_CONTRAST):
                wrong.append(f"{text} on {surface}: {contrast:.2f}")
    return wrong


def take_specimens(page: Page, folder: Path, theme: str) -> None:
    """Draw the tokens over a page that shows widgets, and keep a picture of each kind."""
    drawings = {"colours": _colours(), "scales": _scales(), "states": _states()}
    for name, html in drawings.items():
        page.evaluate(SHOW, html)
        specimen = page.locator("#specimen")
        if name == "states":
            _force_states(page, specimen)
        specimen.screenshot(path=folder / f"{name}-{theme}.png", animations="disabled")
    page.locator("#specimen").evaluate("node => node.remove()")


def _colours() -> str:
    return "".join(
        f'<h4 class="ollm-heading" style="margin: 8px 0 4px">{title}</h4>'
        f"{_row(map(_swatch, names))}"
        for title, names in COLOURS.items()
    )


def _swatch(name: str) -> str:
    return (
        '<span style="display: grid; gap: 4px; width: 88px">'
        f'<i style="height: 36px; border: 1px solid var(--ollm-line); border-radius: 6px;'
        f' background: var(--ollm-{name})"></i><span class="ollm-small">{name}</span></span>'
    )


def _scales() -> str:
    sizes = "".join(
        f'<p style="font-size: var(--ollm-text-{name})">{name}: 18,204 of 32,768 tokens</p>'
        for name in SIZES
    )
    spaces = _row(
        f'<span class="ollm-small" style="display: grid; justify-items: center; gap: 4px">'
        f'<i style="width: var(--ollm-space-{step}); height: 36px;'
        f' background: var(--ollm-gpu)"></i>space-{step}</span>'
        for step in range(1, 8)
    )
    radii = _row(
        f'<span class="ollm-small" style="display: grid; justify-items: center; gap: 4px">'
        f'<i style="width: 72px; height: 36px; border: 1px solid var(--ollm-edge);'
        f' border-radius: var(--ollm-radius{name})"></i>radius{name}</span>'
        for name in RADII
    )
    return f'<div style="display: grid; gap: 16px; width: 520px">{sizes}{spaces}{radii}</div>'


def _states() -> str:
    head = "".join(f'<span class="ollm-heading">{text}</span>' for text in ("", *STATES))
    rows = "".join(
        f'<span class="ollm-dim">{name}</span>'
        + "".join(
            f'<span data-state="{state}">{_in_state(control, state)}</span>' for state in STATES
        )
        for name, control in CONTROLS.items()
    )
    return (
        '<div style="display: grid; grid-template-columns: 96px repeat(5, 132px); gap: 12px 16px;'
        f' align-items: center">{head}{rows}</div>'
    )


def _in_state(control: str, state: str) -> str:
    if state == "disabled":
        for kind in ("button", "input", "select"):
            control = control.replace(f"<{kind}", f"<{kind} disabled", 1)
    return control


def _force_states(page: Page, specimen: Locator) -> None:
    """Put controls into states that a pointer can give to one at a time only."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("DOM.enable")
    devtools.send("CSS.enable")
    root = devtools.send("DOM.getDocument")["root"]["nodeId"]
    for state, pseudo in FORCED.items():
        selector = f'#specimen [data-state="{state}"] :is(button, input, select)'
        found: Sequence[int] = devtools.send(
            "DOM.querySelectorAll", {"nodeId": root, "selector": selector}
        )["nodeIds"]
        assert len(found) == len(CONTROLS)
        for node in found:
            devtools.send("CSS.forcePseudoState", {"nodeId": node, "forcedPseudoClasses": pseudo})
    specimen.wait_for()


def _row(parts: Iterator[str] | map[str]) -> str:
    return f'<div style="display: flex; flex-wrap: wrap; gap: 8px 12px">{"".join(parts)}</div>'
