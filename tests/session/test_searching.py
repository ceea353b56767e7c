from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ollm_widgets import Session
from ollm_widgets.protocol.snapshot import ModelsView
from ollm_widgets.protocol.views import view_models
from tests.session.tiny import CopyModel
from tests.session.waiting import until


def listed(session: Session) -> ModelsView:
    session.browser.refresh()
    until(session, lambda: not session.browser.searching)
    return view_models(session)


def search(session: Session, text: str) -> ModelsView:
    """Type into the search box, and wait until the desk has come to it."""
    session.browser.search(text)
    session.browser.refresh()
    until(session, lambda: not session.browser.searching)
    return view_models(session)


def test_the_list_holds_the_catalog_and_what_is_on_this_machine_first(
    session: Session, saved_llama: Path, own_models_folder: Path
) -> None:
    shutil.copytree(saved_llama, own_models_folder / "my-llama")
    view = listed(session)
    names = [item.name for item in view.items]
    assert "my-llama" in names
    assert "smollm2-135m" in [item.reference for item in view.items]
    here = [item.group == "On this machine" for item in view.items]
    assert here == sorted(here, reverse=True)
    for item in view.items:
        assert item.available or item.reason or item.verdict.tone == "warn"


def test_words_filter_the_list_in_any_order(session: Session) -> None:
    everything = listed(session).items
    found = search(session, "135m SMOL").items
    assert 0 < len(found) < len(everything)
    assert all("135m" in f"{item.name} {item.reference}".casefold() for item in found)


def test_a_typed_folder_that_is_not_listed_is_looked_up(
    session: Session, copy_model: CopyModel
) -> None:
    listed(session)
    (item,) = search(session, copy_model("typed")).items
    assert item.reference == copy_model("typed")
    assert item.name == "typed"
    assert item.available
    assert search(session, "").items != (item,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no/such@", "without a revision"),
        ("nobody-knows-this", "Nothing was found under"),
        ("path:/no/such/folder", "no such folder"),
        ("path:" + "x" * 4_000, ""),
        ("~nobody-here/x", "cannot be read"),
        ("\u2028", ""),
    ],
)
def test_typed_text_that_names_nothing_says_why(session: Session, text: str, reason: str) -> None:
    listed(session)
    items = search(session, text).items
    if text.strip():
        (item,) = items
        assert not item.available
        assert reason in item.reason
        assert item.verdict.tone in ("no", "warn")


def test_only_the_text_typed_last_is_looked_up(session: Session, copy_model: CopyModel) -> None:
    listed(session)
    for name in ("a", "b"):
        session.browser.search(copy_model(name))
    until(session, lambda: session.browser.typed is not None)
    assert session.browser.typed is not None
    assert session.browser.typed.name == "b"


def test_a_listing_that_breaks_ends_and_can_be_tried_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(session.manager.loader, "discover_local_models", lambda _dir: 1 // 0)
        session.browser.refresh()
        until(session, lambda: not session.browser.searching)
    assert listed(session).items
