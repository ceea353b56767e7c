"""The wheel in an environment of its own, in a fresh IPython."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.packaging.conftest import ROOT

LOADS = """
import sys
from pathlib import Path
shell = get_ipython()
for name in ("ollm", "ollm", "ollm_widgets"):
    shell.run_line_magic("load_ext", name)
assert shell.find_line_magic("ollm") and shell.find_cell_magic("ollm")
heavy = {"torch", "transformers", "numpy"} & set(sys.modules)
assert not heavy, heavy
import ollm, ollm_widgets
for module in (ollm, ollm_widgets):
    assert Path(module.__file__).is_relative_to(sys.prefix), module.__file__
shell.run_line_magic("unload_ext", "ollm")
assert not shell.find_line_magic("ollm")
print("loaded and unloaded")
"""

WIDGETS = """
import ollm_widgets
from importlib.metadata import version
homes = ollm_widgets._HOME_OF.items()
names = [name for name, home in homes if home.startswith("ollm_widgets.widgets.")]
for name in names:
    widget = getattr(ollm_widgets, name)
    assert len(str(widget._esm)) > 1000, name
    assert len(str(widget._css)) > 100, name
print(len(names), "widgets of", version("ollm-widgets"))
"""


def ipython(python: Path, code: str, folder: Path) -> str:
    environment = os.environ | {"IPYTHONDIR": str(folder / "ipython")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(python), "-m", "IPython", "--no-banner", "--colors=NoColor", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_both_names_load_and_unload_without_anything_heavy(installed: Path, tmp_path: Path) -> None:
    assert "loaded and unloaded" in ipython(installed, LOADS, tmp_path)


def test_each_widget_finds_its_bundle(installed: Path, tmp_path: Path) -> None:
    widgets = list((ROOT / "js" / "src" / "widgets").glob("*.tsx"))
    assert f"{len(widgets)} widgets of " in ipython(installed, WIDGETS, tmp_path)
