"""What a config asks of the cluster is the same wherever it is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.cluster.client.wanting import goes_to_cluster, on_node, wanted_of
from ollm_widgets.planning.config import RuntimeConfig

configs = st.builds(
    RuntimeConfig,
    model_reference=st.sampled_from(["smollm2-135m", "org/name@main", "/models/a", "~/models/a"]),
    device=st.sampled_from(["ray", "ray:cpu", "ray:cuda", "auto"]),
    models_dir=st.sampled_from([None, "/models", "~/models"]),
    gpu_memory_budget=st.sampled_from([None, "6GiB", 6 * 2**30]),
    concurrency_group=st.sampled_from([None, "big"]),
    context_tokens=st.sampled_from([None, 512]),
)


def key_of(config: RuntimeConfig) -> str:
    return wanted_of(config, "any", {}).key


@given(configs)
def test_a_config_that_came_as_json_asks_for_the_same(config: RuntimeConfig) -> None:
    again = RuntimeConfig.from_dict(json.loads(json.dumps(config.as_dict())))
    assert key_of(again) == key_of(config)


@given(configs)
def test_what_a_node_is_given_is_a_config_that_works(config: RuntimeConfig) -> None:
    wanted = wanted_of(config, "any", {})
    there = RuntimeConfig.from_dict(wanted.config)
    assert there.device in ("auto", "cpu", "cuda")
    assert wanted.group == config.concurrency_group
    assert key_of(there.copy(device=config.device)) == wanted.key


@given(configs, st.integers(1, 4096))
def test_another_wish_is_another_key(config: RuntimeConfig, tokens: int) -> None:
    other = config.copy(context_tokens=tokens)
    assert (key_of(other) == key_of(config)) == (config.context_tokens == tokens)


def test_another_process_finds_the_same_key() -> None:
    code = (
        "from ollm_widgets.cluster.client.wanting import wanted_of\n"
        "from ollm_widgets.planning.config import RuntimeConfig\n"
        "print(wanted_of(RuntimeConfig('~/m', device='ray', gpu_memory_budget='6GiB'), '', {}).key)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    config = RuntimeConfig("~/m", device="ray", gpu_memory_budget=6 * 2**30)
    assert said.stdout.strip() == key_of(config)


def test_how_files_come_is_no_part_of_what_is_wanted() -> None:
    config = RuntimeConfig("smollm2-135m", device="ray")
    assert key_of(config.copy(force_download=True)) == key_of(config)


def test_paths_stay_as_typed_but_relative_ones_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    typed = on_node(RuntimeConfig("~/model", device="ray", models_dir="~/models"))
    assert (typed.model_reference, typed.models_dir) == ("~/model", Path("~/models"))
    relative = on_node(RuntimeConfig("./model", device="ray", cache_dir="kv"))
    assert relative.model_reference == f"path:{tmp_path / 'model'}"
    assert relative.cache_dir == tmp_path / "kv"
    assert on_node(RuntimeConfig("smollm2-135m", device="ray")).model_reference == "smollm2-135m"


def test_the_device_says_whether_a_config_goes_to_the_cluster() -> None:
    there = [RuntimeConfig("m", device=device) for device in ("ray", "ray:cuda", "ray:cpu")]
    assert all(goes_to_cluster(config, auto=False) for config in there)
    assert goes_to_cluster(RuntimeConfig("m"), auto=True)
    assert not goes_to_cluster(RuntimeConfig("m"), auto=False)
    assert not goes_to_cluster(RuntimeConfig("m", device="cuda:0"), auto=True)


def test_a_model_has_as_many_copies_as_its_reference_or_its_name_was_given() -> None:
    config = RuntimeConfig(" smollm2-135m ", device="ray")
    assert wanted_of(config, "SmolLM2", {"smollm2-135m": 2}).copies == 2
    assert wanted_of(config, "SmolLM2", {"SmolLM2": 3}).copies == 3
    assert wanted_of(config, "SmolLM2", {"other": 3}).copies == 0
