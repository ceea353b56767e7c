from __future__ import annotations

from tests.hub.fixtures import hub
from tests.notebook.conftest import bare_kernel
from tests.session.tiny import (
    copy_model,
    loader,
    manager,
    one_thread_a_model,
    own_models_folder,
    session,
)

__all__ = [
    "bare_kernel",
    "copy_model",
    "hub",
    "loader",
    "manager",
    "one_thread_a_model",
    "own_models_folder",
    "session",
]
