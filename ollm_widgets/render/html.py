"""A card as HTML: one element with its own style, everything escaped, no script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollm_widgets.render.card import Card, Row

_LIGHT = (
    "--oc-bg:#fff;--oc-ink:#1b1e23;--oc-dim:#656c78"
    ";--oc-line:#e2e4e8;--oc-ok:#1b8a4b;--oc-warn:#9a5b00;--oc-no:#c0392b"
)
_DARK = (
    "--oc-bg:#16181c;--oc-ink:#eceef1;--oc-dim:#9aa2ae"
    ";--oc-line:#31353c;--oc-ok:#55c98a;--oc-warn:#e0a64a;--oc-no:#f0776a"
)

# The host's own variables win. Where a host says which theme it shows (JupyterLab, VS Code,
# Colab) the fallbacks follow it rather than the operating system.
_STYLE = (
    f".ollm-card{{{_LIGHT};"
    "--oc-b:var(--jp-layout-color1,var(--vscode-editor-background,var(--oc-bg)));"
    "--oc-i:var(--jp-ui-font-color0,var(--vscode-foreground,var(--oc-ink)));"
    "--oc-d:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,var(--oc-dim)));"
    "--oc-l:var(--jp-border-color2,var(--vscode-widget-border,var(--oc-line)));"
    "box-sizing:border-box;display:inline-block;min-width:18em;max-width:min(52em,100%);"
    "margin:2px 0;padding:10px 14px;border:1px solid var(--oc-l);border-radius:8px;"
    "background:var(--oc-b);color:var(--oc-i);"
    "font:13px/1.45 var(--jp-ui-font-family,system-ui,-apple-system,'Segoe UI',Roboto,"
    "'DejaVu Sans',sans-serif);font-variant-numeric:tabular-nums}"
    f"@media (prefers-color-scheme:dark){{.ollm-card{{{_DARK}}}}}"
    "[data-jp-theme-light=true] .ollm-card,.vscode-light .ollm-card,"
    f"html[theme=light] .ollm-card{{{_LIGHT}}}"
    "[data-jp-theme-light=false] .ollm-card,.vscode-dark .ollm-card,"
    f"html[theme=dark] .ollm-card{{{_DARK}}}"
    ".ollm-card .oc-head{display:flex;gap:10px;align-items:center;flex-wrap:wrap}"
    ".ollm-card .oc-title{font-size:14px;font-weight:600;overflow-wrap:anywhere}"
    ".ollm-card .oc-sub{color:var(--oc-d);overflow-wrap:anywhere}"
    ".ollm-card .oc-badge{border:1px solid;border-radius:999px;padding:0 8px;"
    "font-size:12px;white-space:nowrap;color:var(--oc-d)}"
    ".ollm-card dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:3px 14px;"
    "margin:8px 0 0;padding:0}"
    # JupyterLab floats the terms of lists in outputs, at a fifth of the width.
    "section.ollm-card dl>dt{float:none;width:auto;margin:0;padding:0;font-weight:400;"
    "color:var(--oc-d)}"
    "section.ollm-card dl>dd{float:none;width:auto;margin:0;padding:0;overflow-wrap:anywhere}"
    ".ollm-card dd.oc-wide{grid-column:1/-1}"
    ".ollm-card dd.oc-lines{white-space:pre-wrap}"
    ".ollm-card dd.oc-code{font-size:12px;"
    "font-family:var(--jp-code-font-family,ui-monospace,'DejaVu Sans Mono',monospace)}"
    # Long terms would leave a narrow page no room for what is said of them.
    "@media (max-width:480px){.ollm-card dl{grid-template-columns:fit-content(38%) minmax(0,1fr)}"
    "section.ollm-card dl>dt{overflow-wrap:anywhere}}"
    ".ollm-card .oc-ok{color:var(--oc-ok)}.ollm-card .oc-warn{color:var(--oc-warn)}"
    ".ollm-card .oc-no{color:var(--oc-no)}"
)


def card_to_html(card: Card) -> str:
    """Return the card as one ``<section>`` that carries its own style."""
    rows = "".join(_row(row) for row in card.rows)
    return section(card, f"<dl>{rows}</dl>" if rows else "")


def card_body(card: Card) -> str:
    """Return what a card says as a piece of HTML for the body of another card's `section`."""
    rows = "".join(_row(row) for row in card.rows)
    return _head(card) + (f"<dl>{rows}</dl>" if rows else "")


def section(card: Card, body: str, style: str = "") -> str:
    """Return a card's head over another `body` of HTML, which is taken as it is."""
    # Dollar signs in a name are no formula to the MathJax of the page, nor of an exported notebook.
    label = escape(card.title)
    html = (
        f'<section class="ollm-card mathjax_ignore tex2jax_ignore" aria-label="{label}">'
        f"<style>{_STYLE}{style}</style>"
        f"{_head(card)}{body}</section>"
    )
    # Half a surrogate pair, which the name of a folder may hold, could not be sent to a page.
    return html.encode("utf-8", "replace").decode()


def _head(card: Card) -> str:
    badge = (
        f'<span class="oc-badge oc-{escape(card.tone)}">{escape(card.badge)}</span>'
        if card.badge
        else ""
    )
    subtitle = f'<div class="oc-sub">{escape(card.subtitle)}</div>' if card.subtitle else ""
    title = f'<span class="oc-title">{escape(card.title)}</span>'
    return f'<div class="oc-head">{title}{badge}</div>{subtitle}'


def _row(row: Row) -> str:
    tone = f"oc-{escape(row.tone)}"
    tone += " oc-lines" if "\n" in row.text else ""
    tone += " oc-code" if row.is_code else ""
    if not row.term:
        return f'<dd class="oc-wide {tone}">{escape(row.text)}</dd>'
    return f'<dt>{escape(row.term)}</dt><dd class="{tone}">{escape(row.text)}</dd>'
