from __future__ import annotations

from tests.session.tiny import copy_model, loader, manager, own_models_folder, session

__all__ = ["copy_model", "loader", "manager", "own_models_folder", "session"]
