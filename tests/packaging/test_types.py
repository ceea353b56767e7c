"""What a type checker, and so an editor, knows of the public names."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import ollm_widgets
from tests.packaging.conftest import run

PROGRAM = """
import ollm_widgets
from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader, Workbench, doctor

runtime = RuntimeLoader().load(RuntimeConfig("smollm2-135m"))
reveal_type(runtime)
reveal_type(runtime.complete("Hi.", GenerationConfig()).tokens_per_s)
reveal_type(ollm_widgets.OllmError("It broke.").hint)
reveal_type(doctor().to_html())
reveal_type(Workbench().freeze().to_html())
RuntimeConfig("smollm2-135m", dtype="float99")
ollm_widgets.no_such_name
"""

# What others' packages are is theirs to say, and takes minutes to find out.
SETTINGS = """
[mypy]
follow_imports = silent
ignore_missing_imports = true
[mypy-torch.*,transformers.*,numpy.*,IPython.*,ipywidgets.*,anywidget.*,traitlets.*]
follow_imports = skip
[mypy-huggingface_hub.*,safetensors.*,accelerate.*,gguf.*,psutil.*,jinja2.*,PIL.*]
follow_imports = skip
"""


def test_the_stub_names_what_the_package_has_and_where_it_is() -> None:
    stub = ast.parse(Path(ollm_widgets.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    named = {
        (one.asname, node.module)
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.module != "IPython.core.interactiveshell"
        for one in node.names
    }
    named |= {
        (node.name, "ollm_widgets") for node in stub.body if isinstance(node, ast.FunctionDef)
    }
    homes = {name: home for home, names in ollm_widgets._HOMES.items() for name in names}
    assert named == {(name, homes.get(name, "ollm_widgets")) for name in ollm_widgets.__all__}


def test_a_program_that_uses_the_package_is_checked(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    command = f"import sys; from mypy.api import run; print(run(['{program.name}'])[0])"
    said = run(sys.executable, "-c", command, cwd=tmp_path, environment=None)
    for words in (
        'Revealed type is "ollm_widgets.runtime.loaded.LoadedRuntime"',
        'Revealed type is "float"',
        "'float99'",
        'has no attribute "no_such_name"',
    ):
        assert words in said.replace("builtins.", ""), said
    assert said.replace("builtins.", "").count('Revealed type is "str"') == 3, said
