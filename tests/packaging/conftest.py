"""Distributions built from a copy of this tree; the tree itself is never built in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = shutil.ignore_patterns(
    *(".*_cache", ".git", ".venv", ".screenshots", ".hypothesis", "__pycache__"),
    *("node_modules", "static", "build", "dist", "*.egg-info"),
)
TIMEOUT_S = 600


@dataclass(frozen=True)
class Checkout:
    """A copy of the sources, without anything that was built."""

    root: Path

    def build(self, kind: str, *options: str, path: str | None = None) -> Path:
        """Build a ``wheel`` or an ``sdist``; `path` replaces the search path for programs."""
        environment = os.environ | ({} if path is None else {"PATH": path})
        run(
            *(sys.executable, "-m", "build", f"--{kind}", "--outdir", str(self.root / "out")),
            *(*options, str(self.root)),
            cwd=self.root,
            environment=environment,
        )
        (built,) = (self.root / "out").glob("*.whl" if kind == "wheel" else "*.tar.gz")
        return built


def run(*command: str, cwd: Path, environment: dict[str, str] | None = None) -> str:
    """Run a program; its output, which is also the message when it fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.packaging)


def copy_of_the_tree(target: Path) -> Checkout:
    return Checkout(Path(shutil.copytree(ROOT, target, ignore=GENERATED, symlinks=True)))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return copy_of_the_tree(tmp_path / "checkout")


@pytest.fixture(scope="session")
def built_checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose wheel and sdist are built, with this environment's Node."""
    checkout = copy_of_the_tree(tmp_path_factory.mktemp("built") / "checkout")
    checkout.build("wheel", "--no-isolation")
    checkout.build("sdist", "--no-isolation")
    return checkout


@pytest.fixture(scope="session")
def wheel(built_checkout: Checkout) -> Path:
    (wheel,) = (built_checkout.root / "out").glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def sdist(built_checkout: Checkout) -> Path:
    (sdist,) = (built_checkout.root / "out").glob("*.tar.gz")
    return sdist


@pytest.fixture
def path_without_node(tmp_path: Path) -> str:
    """A search path with a shell and no Node."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("sh", "env", "uname"):
        program = shutil.which(name)
        assert program, name
        (folder / name).symlink_to(program)
    return str(folder)


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel, borrowing what it depends on from this one.

    A path file lends the other environment's packages; its editable install is not lent, because
    path files in a borrowed folder are not read.
    """
    home = tmp_path_factory.mktemp("installed") / "env"
    run(sys.executable, "-m", "venv", "--without-pip", str(home), cwd=home.parent)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = run(
        str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home
    )
    borrowed = Path(site.strip()) / "borrowed.pth"
    borrowed.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)),
        *("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)),
        cwd=home,
    )
    return python
