"""Pictures of every widget in its states, and which of them documents show.

``python -m tests.browser.gallery`` copies those that documents show, made small, to where they
belong; ``tests/browser/test_gallery.py`` takes them.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.browser.lab import SCREENSHOTS

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ROOT = Path(__file__).parents[2]
PICTURES = SCREENSHOTS / "gallery"
DESIGN = ROOT / "js" / "design"
EXAMPLES = ROOT / "examples"
LARGEST_BYTES = 60_000
# Tried in turn until a picture is small enough; a page shows two side by side, half as wide.
WIDTHS = (960, 800, 720, 640)
COLOURS = (256, 128, 64)


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A widget in a state.

    Parameters
    ----------
    name
        Of its pictures: ``NAME-THEME-WIDTH.png``.
    code
        What a cell runs to show it; `gallery` holds the sessions.
    region
        Accessible name of what is shown.
    shows
        Text that is there once it is drawn.
    press
        A button to press first.
    """

    name: str
    code: str
    region: str
    shows: str
    press: str = ""


EXHIBITS = (
    Exhibit("workbench-fresh", "Workbench(gallery.fresh)", "Workbench", "Start with smollm2-135m"),
    Exhibit("workbench-talking", "Workbench(gallery.talk)", "Workbench", "row group"),
    Exhibit("models", "ModelPicker(gallery.talk)", "Models", "smollm2-135m"),
    Exhibit("models-offline", "ModelPicker(gallery.sought)", "Models", "mistral"),
    Exhibit("plan", "PlanEditor(gallery.moved)", "Plan", "12 in RAM, 18 on disk"),
    Exhibit("plan-impossible", "PlanEditor(gallery.large)", "Plan", "Does not run as asked"),
    Exhibit("load-ready", "LoadPanel(gallery.moved)", "Loading", "is not loaded yet"),
    Exhibit("load-running", "LoadPanel(gallery.coming)", "Loading", "Read weights"),
    Exhibit("load-done", "LoadPanel(gallery.talk)", "Loading", "was loaded in"),
    Exhibit("load-refused", "LoadPanel(gallery.refused)", "Loading", "Load anyway"),
    Exhibit("capabilities", "CapabilityCard(gallery.talk)", "Capabilities", "8,192 tokens"),
    Exhibit("chat", "Chat(gallery.talk)", "Chat", "row group"),
    Exhibit("chat-streaming", "Chat(gallery.story)", "Chat", "a keeper who had not"),
    Exhibit("chat-empty", "Chat(gallery.moved)", "Chat", "Nothing has been said yet"),
    Exhibit("chat-settings", "Chat(gallery.talk)", "Chat", "Temperature", press="Settings"),
    Exhibit("activity", "Activity(gallery.talk)", "Activity", "Predicted and measured"),
    Exhibit("memory", "RuntimeShelf(gallery.talk)", "In memory", "smollm2-135m"),
)

THEMES = ("light", "dark")
# Which width of an exhibit the design shows.
DESIGN_SHOWS = {
    "workbench-fresh": "wide",
    "models": "narrow",
    "plan": "wide",
    "load-running": "wide",
    "capabilities": "narrow",
    "chat": "wide",
    "activity": "wide",
    "memory": "wide",
}
# Where documents show a picture: its name here, and its place.
SHOWN = (
    ("workbench-front-light", EXAMPLES / "workbench.png"),
    ("plan-light-wide", EXAMPLES / "plan_editor.png"),
    ("scales-light", DESIGN / "scales.png"),
    *(
        (f"{name}-{theme}", DESIGN / f"{name}-{theme}.png")
        for name in ("colours", "states", "workbench-front")
        for theme in THEMES
    ),
    *(
        (f"{name}-{theme}-{width}", DESIGN / f"{name}-{theme}.png")
        for name, width in DESIGN_SHOWS.items()
        for theme in THEMES
    ),
)


def publish() -> None:
    """Copy the pictures that documents show, those of the design small enough to come by dozens."""
    from PIL import Image

    for name, target in SHOWN:
        target.parent.mkdir(exist_ok=True)
        with Image.open(PICTURES / f"{name}.png") as picture:
            taken = picture.convert("RGB")
        many = target.parent == DESIGN
        widths = [min(width, taken.width) for width in WIDTHS] if many else [taken.width]
        for width, colours in itertools.product(widths, COLOURS):
            size = (width, round(taken.height * width / taken.width))
            few = _with_colours(taken.resize(size, Image.Resampling.LANCZOS), colours)
            few.save(target, optimize=True)
            if not many or target.stat().st_size < LARGEST_BYTES:
                break
        print(f"{target.relative_to(ROOT)}: {width} px, {target.stat().st_size / 1000:.0f} kB")


def _with_colours(picture: Picture, colours: int) -> Picture:
    """Keep the most frequent colours, which are surfaces, and others that differ the most."""
    from PIL import Image

    pixels = np.asarray(picture, dtype=np.int32).reshape(-1, 3)
    found, which, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    frequent = found[np.argsort(-counts)[: colours // 2]]
    spread = picture.quantize(colours - len(frequent), Image.Quantize.MAXCOVERAGE).getpalette()
    kept = np.concatenate([frequent, np.reshape(spread, (-1, 3))])
    # Pillow finds a colour near by, which turns white into almost white; this finds the nearest.
    nearest = np.array([np.square(kept - colour).sum(axis=1).argmin() for colour in found])
    few = Image.fromarray(
        nearest[which].reshape(picture.height, picture.width).astype(np.uint8), "P"
    )
    few.putpalette(kept.astype(np.uint8).tobytes())
    return few


if __name__ == "__main__":
    if not PICTURES.is_dir():
        sys.exit("Take the pictures first: pytest tests/browser/test_gallery.py")
    publish()
