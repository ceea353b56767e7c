from __future__ import annotations

import shutil
from pathlib import Path

from ollm_widgets import Session
from ollm_widgets.planning.verdict import verdict_of
from ollm_widgets.protocol.views import view_models
from tests.session.waiting import until


def test_the_chip_of_each_model_is_the_verdict_of_its_plan(
    session: Session, saved_llama: Path, own_models_folder: Path
) -> None:
    shutil.copytree(saved_llama, own_models_folder / "whole")
    shutil.copytree(saved_llama, own_models_folder / "broken")
    (own_models_folder / "broken" / "config.json").write_text("{")
    session.browser.refresh()
    until(session, lambda: not session.browser.searching)
    items = {item.name: item for item in view_models(session).items}
    for model in session.browser.listed:
        assert model.plan is not None
        verdict = verdict_of(model.plan)
        item = items[model.name]
        assert item.verdict.text == verdict.short
        assert (item.verdict.tone == "no") == verdict.refused
        assert item.available == (item.verdict.tone == "ok")
    assert items["whole"].verdict.text.startswith("fits: about ")
    assert (items["broken"].verdict.text, items["broken"].available) == ("cannot run", False)
    assert "config.json" in items["broken"].reason
    assert items["gpt-oss-20B"].verdict.text != "cannot run"
    assert "not downloaded" in items["gpt-oss-20B"].facts
