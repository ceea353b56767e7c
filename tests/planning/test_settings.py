from __future__ import annotations

from pathlib import Path

import pytest

from ollm_widgets import settings


def test_the_environment_moves_both_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("OLLM_MODELS_DIR", str(tmp_path / "models"))
    assert settings.cache_dir() == tmp_path / "cache"
    assert settings.default_models_dir() == tmp_path / "models"


def test_without_the_environment_they_are_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLM_CACHE_DIR", raising=False)
    monkeypatch.setenv("OLLM_MODELS_DIR", "  ")
    assert "ollm-widgets" in settings.cache_dir().parts
    assert settings.default_models_dir().name == "models"


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLM_CACHE_DIR", "~/elsewhere")
    assert settings.cache_dir() == Path.home() / "elsewhere"
