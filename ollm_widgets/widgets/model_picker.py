"""Search the catalog and this machine, and choose a model."""

from __future__ import annotations

from ollm_widgets.widgets.base import STATIC, SessionWidget


class ModelPicker(SessionWidget):
    """Search the catalog and this machine, and choose a model."""

    _esm = STATIC / "model-picker.js"
    _css = STATIC / "model-picker.css"
    _draws = ("models",)
