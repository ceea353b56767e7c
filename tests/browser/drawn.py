"""What answers become in the page: of a long conversation first its end, the rest in idle time."""

from __future__ import annotations

from playwright.sync_api import Locator, expect

IDLE_S = 240_000  # Playwright counts in milliseconds

# Elements and attributes of a drawn answer, code, tables and formulas included.
TAGS = (
    "a b blockquote br button code del details div em h1 h2 h3 h4 h5 h6 hr i kbd li mark ol p pre "
    "s span strong sub summary sup table tbody td th thead tr u ul "
    "math menclose merror mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot "
    "mrow ms mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover"
)
# A `style` is on formulas only; what it says is looked at by itself.
ATTRIBUTES = (
    "align aria-label class colspan open rel role rowspan start tabindex target title type style "
    "accent accentunder columnspan depth display displaystyle fence form height largeop "
    "linethickness lspace mathbackground mathcolor mathvariant maxsize minsize movablelimits "
    "rspace scriptlevel separator stretchy symmetric voffset width data-lm-suppress-shortcuts"
)


def wait_until_drawn(conversation: Locator) -> None:
    """Wait until no answer stands there as undrawn text."""
    expect(conversation.locator(".ollm-undrawn")).to_have_count(0, timeout=IDLE_S)
