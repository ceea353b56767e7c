"""What the wheel carries, and that it does not matter where its Node came from."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from tests.packaging.conftest import ROOT, Checkout

STATIC = "ollm_widgets/static/"


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def bundles(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.startswith(STATIC)}


def test_the_wheel_holds_the_package_the_shim_each_bundle_and_nothing_else(wheel: Path) -> None:
    package = {
        str(file.relative_to(ROOT).as_posix()) for file in (ROOT / "ollm_widgets").rglob("*.py")
    }
    widgets = [file.stem for file in (ROOT / "js" / "src" / "widgets").glob("*.tsx")]
    expected_bundles = {f"{STATIC}{name}.{kind}" for name in widgets for kind in ("js", "css")}
    assert widgets
    found = {name for name in names(wheel) if ".dist-info/" not in name}
    assert found == package | expected_bundles | {
        "ollm.py",
        "ollm_widgets/__init__.pyi",
        "ollm_widgets/py.typed",
    }


def test_no_bundle_is_empty(wheel: Path) -> None:
    assert all(len(content) > 100 for content in bundles(wheel).values())


def test_node_from_a_wheel_gives_the_same_bytes(
    wheel: Path, checkout: Checkout, path_without_node: str
) -> None:
    # Isolated, so that the build asks for its Node itself.
    other = checkout.build("wheel", path=path_without_node)
    assert bundles(other) == bundles(wheel)


def test_an_sdist_builds_without_node(
    wheel: Path, sdist: Path, tmp_path: Path, path_without_node: str
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "sdist", filter="data")
    (unpacked,) = (tmp_path / "sdist").iterdir()
    other = Checkout(unpacked).build("wheel", "--no-isolation", path=path_without_node)
    assert names(other) == names(wheel)
    assert bundles(other) == bundles(wheel)
    assert not (unpacked / "js" / "node_modules").exists()


def test_an_edited_source_is_bundled_again(checkout: Checkout) -> None:
    checkout.build("wheel", "--no-isolation")
    style = checkout.root / "js" / "src" / "style" / "chat.css"
    style.write_text(f"{style.read_text('utf-8')}\n.edited {{ color: red }}\n", "utf-8")
    edited = bundles(checkout.build("wheel", "--no-isolation"))
    assert b".edited" in edited[f"{STATIC}chat.css"]
