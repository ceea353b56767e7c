from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "huggingface_hub", "numpy", "ipywidgets", "anywidget")

IN_A_SHELL = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
{code}
print(sorted(set({heavy!r}) & (set(sys.modules) - before)))
"""


def heavy_modules_after(code: str) -> str:
    program = IN_A_SHELL.format(code=code, heavy=HEAVY)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "shell.run_line_magic('load_ext', 'ollm')",
        "shell.run_line_magic('load_ext', 'ollm_widgets')",
        "import ollm_widgets",
        "import ollm_widgets; ollm_widgets.RuntimeConfig('smollm2-135m').validate()",
    ],
)
def test_nothing_heavy_is_imported_before_a_model_is_wanted(code: str) -> None:
    assert heavy_modules_after(code) == "[]"


def test_a_plan_needs_neither_torch_nor_transformers_without_an_accelerator() -> None:
    code = (
        "from ollm_widgets import RuntimeConfig, RuntimeLoader\n"
        "plan = RuntimeLoader().plan(RuntimeConfig('smollm2-135m', device='cpu'))\n"
        "assert plan.is_executable()"
    )
    assert "torch" not in heavy_modules_after(code)
    assert "transformers" not in heavy_modules_after(code)


IN_AND_OUT = """
magics = shell.magics_manager.magics
def state():
    matchers = [getattr(each, 'matcher_identifier', '') for each in shell.Completer.custom_matchers]
    return 'ollm' in magics['line'], 'ollm' in magics['cell'], matchers.count('ollm') == 1
assert state() == (False, False, False), state()
for name in ('ollm', 'ollm_widgets', 'ollm'):
    shell.run_line_magic('load_ext', name)
assert state() == (True, True, True), state()
shell.run_line_magic('unload_ext', 'ollm')
assert state() == (False, False, False), state()
shell.run_line_magic('reload_ext', 'ollm')
assert state() == (True, True, True), state()
"""


def test_loading_twice_is_harmless_and_unloading_undoes_everything() -> None:
    assert heavy_modules_after(IN_AND_OUT) == "[]"


def test_every_public_name_can_be_imported() -> None:
    import ollm_widgets

    for name in ollm_widgets.__all__:
        assert getattr(ollm_widgets, name) is not None
    assert set(dir(ollm_widgets)) == set(ollm_widgets.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        ollm_widgets.no_such_name  # noqa: B018  (asking for it is the test)
