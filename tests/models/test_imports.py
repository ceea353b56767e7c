from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import ollm_widgets.models

HEAVY = ("torch", "transformers", "huggingface_hub", "gguf", "numpy", "safetensors", "filelock")
SCRIPT = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps([name for name in json.loads(sys.argv[2]) if name in sys.modules]))
"""


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(json.dumps, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_importing_every_module_brings_in_nothing_heavy() -> None:
    package = ollm_widgets.models
    names = [
        f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)
    ]
    assert len(names) > 10
    assert json.loads(run(SCRIPT, names, HEAVY)) == []


def test_resolving_the_embedded_model_needs_neither_torch_nor_transformers() -> None:
    script = """
import json, sys
from ollm_widgets.models.resolver import ModelResolver
ModelResolver().resolve("smollm2-135m")
print(json.dumps([name for name in ("torch", "transformers", "numpy") if name in sys.modules]))
"""
    assert json.loads(run(script)) == []
