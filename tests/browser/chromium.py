"""Which Chromium the browser tests drive; ``python tests/browser/chromium.py`` prints it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ViewportSize, sync_playwright

VARIABLE = "OLLM_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


# Quiet, without a GPU, and without anything that goes out to the network.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIEWPORT: ViewportSize = {"width": 1280, "height": 900}


@contextmanager
def running_chromium(profile: Path) -> Iterator[Browser]:
    """Start Chromium; Playwright allows one at a time in a process.

    Its first context keeps in `profile` what pages have fetched and compiled. Without that, most
    of what a page of JupyterLab costs is to compile the same megabytes of JavaScript again.
    """
    with sync_playwright() as playwright:
        kept = playwright.chromium.launch_persistent_context(
            profile, executable_path=find_chromium(), args=CHROMIUM_FLAGS, viewport=VIEWPORT
        )
        assert kept.browser is not None
        yield kept.browser
        kept.close()


def find_chromium() -> str:
    """Path of the first browser that starts: the one named, the system's, Playwright's.

    Raises
    ------
    LookupError
        If there is none; the message says what to do.
    """
    if named := os.environ.get(VARIABLE, "").strip():
        if (path := shutil.which(named)) and _starts(path):
            return path
        raise LookupError(f"{VARIABLE} names {named!r}, which is not a browser that starts.")
    for name in NAMES:
        if (path := shutil.which(name)) and _starts(path):
            return path
    if (path := _from_playwright()) and _starts(path):
        return path
    raise LookupError(
        f"No Chromium or Chrome found: install one, name its program in {VARIABLE}, "
        "or run `make browser`."
    )


def _from_playwright() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


def _starts(path: str) -> bool:
    """Some systems have a `chromium` that only says where else to get it."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


if __name__ == "__main__":
    try:
        print(find_chromium())
    except LookupError as error:
        sys.exit(str(error))
