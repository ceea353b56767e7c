from __future__ import annotations

from pathlib import Path

from ollm_widgets import RuntimeLoader
from ollm_widgets.notebook.listing import ModelListing
from ollm_widgets.planning.verdict import verdict_of
from ollm_widgets.session.shelf import ListedModel, look_up


def shown(*models: ListedModel) -> str:
    return ModelListing(models, ()).to_text()


def test_each_model_is_listed_with_its_verdict(saved_llama: Path) -> None:
    listed = look_up(RuntimeLoader(), f"path:{saved_llama}")
    assert listed.plan is not None
    verdict = verdict_of(listed.plan)
    assert verdict.kind == "fits"
    assert verdict.text in shown(listed)
    assert "not downloaded" not in shown(listed)


def test_what_is_not_downloaded_says_so_with_its_size(tmp_path: Path) -> None:
    listed = look_up(RuntimeLoader(), "gpt-oss-20B", tmp_path)
    assert listed.plan is not None
    assert verdict_of(listed.plan).text in shown(listed)
    assert "; not downloaded (13.8 GB)" in shown(listed)


def test_what_cannot_run_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    row = ModelListing((look_up(RuntimeLoader(), f"path:{tmp_path}"),), ()).card().rows[0]
    assert row.text.startswith("cannot run: ")
    assert "config.json" in row.text
    assert row.tone == "no"
    unknown = look_up(RuntimeLoader(), "no/such@")
    assert unknown.plan is None
    assert "cannot run: " in shown(unknown)
