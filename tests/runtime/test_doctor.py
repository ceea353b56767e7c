"""What the doctor says of this machine, and of machines that have something wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import ollm_widgets
from ollm_widgets.planning.devices import Device
from ollm_widgets.planning.profile.machine import MachineProfile
from ollm_widgets.runtime.doctor import libraries as libraries_room
from ollm_widgets.runtime.doctor.facts import (
    DeviceFacts,
    Facts,
    FolderFacts,
    HostFacts,
    Library,
    TorchFacts,
    VariableFacts,
)
from ollm_widgets.runtime.doctor.gathering import gather, missing_bundles
from ollm_widgets.runtime.doctor.host import quota_cores
from ollm_widgets.runtime.doctor.libraries import fits, libraries, requirements
from ollm_widgets.runtime.doctor.problems import Problem, problems_of
from ollm_widgets.runtime.doctor.report import DoctorReport, doctor
from ollm_widgets.runtime.doctor.surroundings import folder_facts, known_variables, variables

GIB = 1 << 30
CPU = Device("cpu", "cpu", "A CPU", 64 * GIB, 48 * GIB, True)
GPU = Device("cuda", "cuda:0", "A GPU", 80 * GIB, 79 * GIB, True)

WELL = Facts(
    python="3.12.1",
    platform="Linux",
    libraries=(
        Library("ollm-widgets", "0.1.0"),
        Library("torch", "2.11.0", ">=2.8,<3", True),
    ),
    torch=TorchFacts(
        cuda="12.8", cuda_works=True, architectures=("sm_80", "sm_90", "compute_90"), threads=8
    ),
    host=HostFacts(64 * GIB, 48 * GIB, cores=8, usable_cores=8),
    devices=(DeviceFacts(CPU), DeviceFacts(GPU, (9, 0))),
    nvidia_driver="570.1",
    triton=True,
    folders=(FolderFacts("cache", Path("/cache"), True, True, 500 * 10**9, 10**6),),
    hub_token=True,
)
NO_GPU = replace(WELL, devices=(DeviceFacts(CPU),), torch=TorchFacts(threads=8), nvidia_driver="")


def only_problem(facts: Facts) -> Problem:
    (problem,) = problems_of(facts)
    return problem


# ------------------------------------------------------------ problems


def test_a_machine_that_is_well_has_no_problem_with_a_gpu_or_without() -> None:
    assert problems_of(WELL) == ()
    assert problems_of(NO_GPU) == ()


@pytest.mark.parametrize(
    ("library", "said", "command"),
    [
        (
            Library("transformers", "5.2", ">=5.17,<6", False),
            "transformers is 5.2, >=5.17,<6 is needed.",
            '%pip install "transformers>=5.17,<6"',
        ),
        (
            Library("safetensors", "", ">=0.8,<1", False),
            "safetensors is not installed.",
            '%pip install "safetensors>=0.8,<1"',
        ),
    ],
)
def test_a_library_outside_its_range_is_named_with_the_command_that_mends_it(
    library: Library, said: str, command: str
) -> None:
    problem = only_problem(replace(WELL, libraries=(library,)))
    assert problem.text == said
    assert command in problem.fix
    assert not problem.is_note


def test_libraries_that_do_not_fit_are_mended_by_one_command() -> None:
    wrong = (Library("torch", "2.1", ">=2.8,<3", False), Library("gguf", "", ">=0.19,<1", False))
    problem = only_problem(replace(WELL, libraries=wrong))
    assert problem.text == "torch is 2.1, >=2.8,<3 is needed; gguf is not installed."
    assert '%pip install "torch>=2.8,<3" "gguf>=0.19,<1", then' in problem.fix


def test_a_library_that_cannot_be_judged_is_no_problem() -> None:
    assert problems_of(replace(WELL, libraries=(Library("torch", "own", ">=2.8", None),))) == ()


def test_a_torch_that_cannot_be_imported_says_why() -> None:
    broken = replace(NO_GPU, torch=TorchFacts(error="OSError: libcudart.so.12"))
    assert "libcudart.so.12" in only_problem(broken).text


def test_a_torch_for_the_cpu_alone_beside_an_nvidia_driver() -> None:
    problem = only_problem(replace(NO_GPU, nvidia_driver="550.54"))
    assert "driver 550.54" in problem.text
    assert "built for the CPU alone" in problem.text


@pytest.mark.parametrize(
    ("driver", "cuda", "oldest"), [("470.82", "12.8", "525"), ("550.54.15", "13.0", "580")]
)
def test_a_driver_that_is_too_old_for_torch(driver: str, cuda: str, oldest: str) -> None:
    problem = only_problem(
        replace(NO_GPU, nvidia_driver=driver, torch=TorchFacts(cuda=cuda, threads=8))
    )
    assert f"is {driver}" in problem.text
    assert f"CUDA {cuda}" in problem.text
    assert f"needs {oldest} or newer" in problem.text


def test_a_gpu_that_is_hidden_or_missing_in_a_container() -> None:
    facts = replace(NO_GPU, nvidia_driver="570.1", torch=TorchFacts(cuda="12.8", threads=8))
    assert "finds no GPU" in only_problem(facts).text
    assert "nvidia-smi" in only_problem(facts).fix
    hidden = replace(facts, variables=(VariableFacts("CUDA_VISIBLE_DEVICES", "-1"),))
    assert "CUDA_VISIBLE_DEVICES is '-1'" in only_problem(hidden).fix


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((9, 0), ("sm_80", "sm_90"), True),
        ((8, 9), ("sm_80", "sm_90"), True),
        ((8, 0), ("sm_86",), False),
        ((12, 0), ("sm_80", "sm_90"), False),
        ((12, 0), ("sm_80", "compute_90"), True),
        ((6, 1), ("sm_75", "sm_90", "compute_90"), False),
        ((9, 0), ("sm_90a",), True),
        ((9, 0), ("gfx942",), True),
        ((9, 0), (), True),
    ],
)
def test_a_gpu_that_this_torch_has_no_kernels_for(
    capability: tuple[int, int], architectures: tuple[str, ...], runs: bool
) -> None:
    facts = replace(
        WELL,
        devices=(DeviceFacts(CPU), DeviceFacts(GPU, capability)),
        torch=replace(WELL.torch, architectures=architectures),
    )
    if runs:
        assert problems_of(facts) == ()
    else:
        assert "compute capability " + ".".join(map(str, capability)) in only_problem(facts).text


def test_a_gpu_without_triton() -> None:
    problem = only_problem(replace(WELL, triton=False))
    assert "Triton is not installed" in problem.text
    assert problems_of(replace(NO_GPU, triton=False)) == ()


def test_a_gpu_that_others_use_is_a_note_with_numbers() -> None:
    used = replace(GPU, free_bytes=20 * GIB)
    problem = only_problem(replace(WELL, devices=(DeviceFacts(CPU), DeviceFacts(used, (9, 0)))))
    assert problem.text.startswith("60.0 GiB of the 80.0 GiB of A GPU (cuda:0)")
    assert problem.is_note


def test_little_memory_and_full_swap() -> None:
    assert WELL.host is not None
    little = replace(WELL.host, ram_free_bytes=GIB)
    assert "1.0 GiB of 64.0 GiB memory are free" in only_problem(replace(WELL, host=little)).text
    full = replace(WELL.host, swap_total_bytes=8 * GIB, swap_used_bytes=7 * GIB)
    assert "7.0 GiB of 8.0 GiB swap" in only_problem(replace(WELL, host=full)).text
    half = replace(full, swap_used_bytes=4 * GIB)
    assert problems_of(replace(WELL, host=half)) == ()


def test_a_container_that_may_use_less_than_the_machine_has_is_a_note() -> None:
    assert WELL.host is not None
    problem = only_problem(replace(WELL, host=replace(WELL.host, limit_bytes=8 * GIB)))
    assert "8.0 GiB of the machine's 64.0 GiB" in problem.text
    assert problem.is_note


def test_more_threads_than_cores_that_may_be_used() -> None:
    assert WELL.host is not None
    facts = replace(
        WELL,
        host=replace(WELL.host, cores=64, usable_cores=1.5),
        torch=replace(WELL.torch, threads=32),
    )
    problem = only_problem(facts)
    assert "32 threads where this process may use 1.5 of 64 cores" in problem.text
    assert "OMP_NUM_THREADS=2" in problem.fix


def test_a_full_disk_is_told_once_for_the_folders_that_share_it() -> None:
    folders = tuple(
        FolderFacts(name, Path(f"/{name}"), True, True, 3 * 10**9) for name in ("cache", "models")
    )
    problem = only_problem(replace(WELL, folders=folders))
    assert problem.text.startswith("3.0 GB are left on the disk of cache (/cache) and models")
    assert "OLLM_CACHE_DIR" in problem.fix


def test_a_folder_that_cannot_be_written() -> None:
    folder = FolderFacts("models", Path("/models"), True, False, 10**12)
    problem = only_problem(replace(WELL, folders=(folder,)))
    assert problem.text == "The models folder /models cannot be written."
    assert "OLLM_MODELS_DIR" in problem.fix


def test_page_code_that_is_missing() -> None:
    problem = only_problem(replace(WELL, missing_bundles=("chat", "workbench")))
    assert "2 widgets is missing: chat, workbench" in problem.text


def test_another_package_of_the_name_is_a_note() -> None:
    problem = only_problem(replace(WELL, other_ollm="0.5"))
    assert "ollm 0.5" in problem.text
    assert "%load_ext ollm_widgets" in problem.fix


def test_a_hub_without_login_and_one_switched_off_are_notes() -> None:
    assert "no login" in only_problem(replace(WELL, hub_token=False)).text
    assert "HF_HUB_OFFLINE" in only_problem(replace(WELL, hub_offline=True, hub_token=False)).text
    assert problems_of(replace(WELL, hub_token=None)) == ()
    notes = problems_of(replace(WELL, hub_token=False, hub_offline=True, triton=False))
    assert [problem.is_note for problem in notes] == [False, True]


def test_a_misspelt_variable_is_a_note_with_the_right_name() -> None:
    facts = replace(WELL, variables=variables({"OLLM_CACHEDIR": "/x", "OLLM_CACHE_DIR": "/y"}))
    problem = only_problem(facts)
    assert problem.text == "OLLM_CACHEDIR is set, and nothing reads it."
    assert problem.fix == "Did you mean OLLM_CACHE_DIR?"
    assert problem.is_note


def test_what_could_not_be_looked_at_is_not_judged() -> None:
    assert problems_of(replace(WELL, host=None, devices=(), folders=())) == ()


# ------------------------------------------------------------ facts


def test_requirements_that_belong_to_an_extra_are_left_out() -> None:
    stated = ["torch<3,>=2.8", "accelerate (>=1.1)", "jinja2", "ruff>=0.15; extra == 'dev'"]
    assert list(requirements(stated)) == [
        ("torch", ">=2.8,<3"),
        ("accelerate", ">=1.1"),
        ("jinja2", ""),
    ]


@pytest.mark.parametrize(
    ("installed", "wanted", "found"),
    [
        ("2.13.0+cpu", ">=2.8,<3", True),
        ("3.0.0", ">=2.8,<3", False),
        ("6.30.0", ">=6.29,!=6.30.0,<8", False),
        ("2.9.0rc1", ">=2.8,<3", True),
        ("1.0", "", True),
        ("", ">=1", False),
        ("of my own", ">=1", None),
        ("1.0", "whatever", None),
    ],
)
def test_a_version_is_in_a_range_or_not_or_cannot_be_compared(
    installed: str, wanted: str, found: bool | None
) -> None:
    assert fits(installed, wanted) is found


def test_libraries_are_those_that_this_package_states() -> None:
    found = {library.name: library for library in libraries()}
    assert found["ollm-widgets"].installed
    for name in ("torch", "transformers", "safetensors", "anywidget", "ipykernel"):
        assert found[name].fits is True, name
        assert found[name].wanted.startswith(">=")
    assert "hypothesis" not in found


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ("2.60.0", r"2\.60\.0, fits >=2\.60,<3"),
        ("1.13.0", r"1\.13\.0, >=2\.60,<3 is needed"),
        (
            "",
            r"not installed; pip install 'ollm-widgets\[cluster\]' is for models on other machines",
        ),
    ],
)
def test_ray_is_named_though_it_is_needed_for_other_machines_only(
    installed: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries_room, "installed_version", lambda _name: installed)
    ray = next(each for each in libraries() if each.name == "ray")
    facts = replace(WELL, libraries=(ray,))
    (row,) = [
        each for each in DoctorReport(facts, MachineProfile(), ()).card().rows if each.term == "ray"
    ]
    assert re.fullmatch(said, row.text)
    assert bool(problems_of(facts)) == (installed == "1.13.0")


def test_a_source_tree_that_was_never_installed_still_shows_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libraries_room, "APPLICATION", "nothing-of-this-name")
    found = {library.name: library for library in libraries()}
    assert found["torch"].installed
    assert found["torch"].fits is True
    assert found["nothing-of-this-name"].installed == ""


def test_secrets_are_never_shown() -> None:
    found = variables(
        {
            "HF_TOKEN": "hf_secret",
            "OLLM_API_KEY": "sesame",
            "HF_ENDPOINT": "https://me:sesame@hub.example:8080/path?token=sesame",
            "OLLM_CACHE_DIR": "/mine",
            "OLLM_KV_LIMIT": " ",
            "PATH": "/bin",
        }
    )
    shown = {variable.name: variable.value for variable in found}
    assert shown == {
        "HF_TOKEN": "set, not shown",
        "OLLM_API_KEY": "set, not shown",
        "HF_ENDPOINT": "hub.example:8080",
        "OLLM_CACHE_DIR": "/mine",
    }


def test_every_variable_of_the_settings_is_known() -> None:
    assert {"OLLM_CACHE_DIR", "OLLM_MODELS_DIR", "OLLM_KV_LIMIT"} <= known_variables()
    assert all(name.startswith("OLLM_") for name in known_variables())


def test_a_folder_is_looked_at_with_what_it_would_be_made_in(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"0" * 1000)
    (tmp_path / "link").symlink_to(tmp_path / "sub" / "file")
    here = folder_facts("cache", tmp_path, add_up=True)
    assert (here.exists, here.writable, here.size_bytes) == (True, True, 1000)
    assert here.free_bytes is not None
    later = folder_facts("cache", tmp_path / "a" / "b", add_up=True)
    assert (later.exists, later.writable, later.size_bytes) == (False, True, None)
    blocked = folder_facts("cache", tmp_path / "sub" / "file" / "c")
    assert not blocked.writable


@pytest.mark.parametrize(
    ("text", "cores"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None), ("1 0\n", None)],
)
def test_a_quota_of_cores_is_read(tmp_path: Path, text: str, cores: float | None) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(text)
    assert quota_cores(path, tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2.0), ("-1", None), ("x", None)])
def test_a_quota_of_the_older_kind_is_read(tmp_path: Path, quota: str, cores: float | None) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    assert quota_cores(tmp_path / "none", tmp_path) == cores


# ------------------------------------------------------------ the report


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_the_report_of_this_machine_is_true(folder: Path) -> None:
    import torch

    report = doctor()
    facts = report.facts
    assert facts.torch.error == ""
    assert facts.torch.cuda_works == torch.cuda.is_available()
    assert facts.host is not None
    assert 0 < facts.host.ram_free_bytes <= facts.host.ram_total_bytes
    assert 0 < facts.host.usable_cores <= facts.host.cores
    assert facts.devices[0].device.kind == "cpu"
    assert facts.folders[0].path == folder
    assert not any("is needed" in problem.text for problem in report.problems)
    text = str(report)
    assert torch.__version__ in text
    assert str(folder) in text
    assert "OLLM_CACHE_DIR" in text
    assert "%ollm doctor --measure" in text
    assert not list(folder.iterdir())


def test_measuring_shows_the_speeds_and_its_stages(folder: Path) -> None:
    stages: list[str] = []
    report = doctor(measure=True, progress=lambda stage, done, total: stages.append(stage))
    assert stages[-2:] == ["Measure the disk", "Measured"]
    assert "GFLOP/s" in str(report) or "TFLOP/s" in str(report)
    assert doctor().profile == report.profile


def test_every_representation_says_the_same_and_escapes(folder: Path) -> None:
    gpu = replace(GPU, title="<b>GPU</b>", free_bytes=GIB)
    facts = replace(WELL, devices=(DeviceFacts(gpu, (9, 0)),), triton=False)
    report = DoctorReport(facts, MachineProfile(), problems_of(facts))
    assert not report.is_well
    for drawn in (str(report), report.to_html(), report.to_markdown()):
        assert "1 problem" in drawn
        assert "Triton is not installed" in drawn
        assert "compute capability 9.0" in drawn
    assert "<b>GPU" not in report.to_html()
    well = DoctorReport(WELL, MachineProfile(), ())
    assert well.is_well
    assert "all well" in str(well)


def test_a_report_is_json_for_those_who_are_asked_for_it(folder: Path) -> None:
    document = json.loads(json.dumps(doctor().as_dict()))
    assert document["facts"]["libraries"][0]["name"] == "ollm-widgets"
    assert document["facts"]["folders"][0]["path"] == str(folder)


def test_the_page_code_of_every_widget_is_looked_for_and_of_nothing_else() -> None:
    package = Path(ollm_widgets.__file__).parent
    pages = Path(__file__).parents[2] / "js" / "src" / "widgets"
    widgets = {page.stem for page in pages.glob("*.tsx")}
    assert "workbench" in widgets
    gone = {name for name in widgets if not (package / "static" / f"{name}.js").is_file()}
    assert set(missing_bundles()) == gone


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import ollm_widgets
print(ollm_widgets.doctor())
print(sorted(set(sys.modules) & {{'IPython', 'ipywidgets', 'anywidget'}}))
"""


@pytest.mark.parametrize(
    "missing",
    [
        ("IPython", "ipywidgets", "anywidget"),
        ("torch", "transformers", "numpy"),
        ("psutil",),
        ("platformdirs", "filelock", "msgspec", "huggingface_hub"),
    ],
)
def test_it_reports_where_the_libraries_that_it_looks_for_are_missing(
    folder: Path, missing: tuple[str, ...]
) -> None:
    environment = {key: os.environ[key] for key in os.environ if key != "OLLM_CACHE_DIR"}
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("ollm-widgets on this machine [")
    if "torch" in missing:
        assert re.search(r"torch cannot be imported: .*'torch'", ran.stdout)
    if "IPython" in missing:
        assert ran.stdout.splitlines()[-1] == "[]"


def test_it_asks_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refused(*_args: object, **_options: object) -> None:
        raise AssertionError("the doctor asked the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert gather().python
