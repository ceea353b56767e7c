from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from ollm_widgets import (
    Cancelled,
    ConfigError,
    LoadProgress,
    ManagedModelDownloadError,
    OllmError,
    PlanNotExecutableError,
    RuntimeConfig,
    RuntimeLoader,
    SpecializationLoadError,
    UnsupportedModelError,
)
from ollm_widgets.backends.base import LoadedModel, ProgressSink
from ollm_widgets.backends.generic import GenericBackend
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.specialization import SpecializationRegistry
from ollm_widgets.planning.traits import NATIVE_TRAITS, BackendTraits


@pytest.fixture
def tiny(saved_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_llama, tmp_path / "tiny-llama"))


@pytest.fixture(scope="module")
def loader() -> RuntimeLoader:
    return RuntimeLoader()


def test_a_local_folder_loads_and_answers(loader: RuntimeLoader, tiny: Path) -> None:
    with loader.load(RuntimeConfig(f"path:{tiny}")) as runtime:
        assert runtime.model_path == tiny
        assert runtime.config.backend == runtime.plan.backend_id == "optimized-native"
        assert runtime.config.kv_cache_strategy == "resident"
        assert runtime.capabilities.supports_specialization is True
        assert runtime.complete("w5 w6").new_tokens > 0


def test_progress_counts_every_byte_of_the_weights(loader: RuntimeLoader, tiny: Path) -> None:
    seen: list[LoadProgress] = []
    loader.load(RuntimeConfig(f"path:{tiny}"), progress=seen.append).close()
    reads = [one for one in seen if one.stage == "Read weights"]
    assert reads[0].done_bytes == 0
    assert reads[-1].done_bytes == reads[-1].total_bytes > 0
    assert [one.done_bytes for one in reads] == sorted(one.done_bytes for one in reads)
    assert len({one.done_bytes for one in reads}) > 3
    assert seen[-1].stage == "Warm up"


def test_a_load_is_cancelled_between_two_tensors(loader: RuntimeLoader, tiny: Path) -> None:
    cancel = threading.Event()

    def stop_at_the_first_tensor(progress: LoadProgress) -> None:
        if progress.done_bytes:
            cancel.set()

    with pytest.raises(Cancelled):
        loader.load(RuntimeConfig(f"path:{tiny}"), stop_at_the_first_tensor, cancel)
    loader.load(RuntimeConfig(f"path:{tiny}")).close()


def test_the_config_that_was_passed_is_left_as_it_was(loader: RuntimeLoader, tiny: Path) -> None:
    config = RuntimeConfig(f"path:{tiny}")
    before = config.copy()
    loader.load(config).close()
    assert config == before


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_another_layer_count(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (without_config, UnsupportedModelError, "no config.json"),
        (truncated, UnsupportedModelError, "100 of 156,288 bytes"),
        (pickled, UnsupportedModelError, "pickle"),
        (without_tokenizer, ManagedModelDownloadError, "tokenizer"),
        (shutil.rmtree, UnsupportedModelError, "no such folder"),
    ],
)
def test_a_damaged_folder_is_refused_by_name_and_its_repair_loads(
    loader: RuntimeLoader,
    tiny: Path,
    saved_llama: Path,
    damage: object,
    error: type[OllmError],
    message: str,
) -> None:
    damage(tiny)  # type: ignore[operator]
    with pytest.raises(error, match=message) as caught:
        loader.load(RuntimeConfig(f"path:{tiny}"))
    assert "tiny-llama" in str(caught.value)
    shutil.rmtree(tiny, ignore_errors=True)
    shutil.copytree(saved_llama, tiny)
    loader.load(RuntimeConfig(f"path:{tiny}")).close()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no-such-alias", "no catalog alias"),
        ("smollm2-135", "smollm2-135m"),
        ("org/absent", "hf download org/absent"),
        ("llama3-8B-chat", "hf auth login"),
    ],
)
def test_what_is_not_on_this_machine_says_what_to_do(
    loader: RuntimeLoader, tmp_path: Path, reference: str, message: str
) -> None:
    with pytest.raises(OllmError, match=message):
        loader.load(RuntimeConfig(reference, models_dir=tmp_path))


def test_an_impossible_plan_is_refused_with_the_plans_own_reason(
    loader: RuntimeLoader, tiny: Path
) -> None:
    with_another_layer_count(tiny)
    config = RuntimeConfig(f"path:{tiny}", backend="optimized-native")
    plan = loader.plan(config)
    assert not plan.is_executable()
    with pytest.raises(PlanNotExecutableError, match="the config announces 3"):
        loader.load(config)


def test_a_config_that_cannot_work_is_refused_before_anything_is_read(
    loader: RuntimeLoader,
) -> None:
    with pytest.raises(ConfigError, match="context_tokens"):
        loader.load(RuntimeConfig("smollm2-135m", context_tokens=-1))


class MatchesAll:
    pass_id = "layer-streaming"

    def matches(self, resolved: ResolvedModel) -> bool:
        return True


class BrokenNative:
    """A specialized backend that plans well and then cannot build the model."""

    traits = BackendTraits(
        backend_id="optimized-native",
        title="broken",
        unavailable="",
        generic_kinds=NATIVE_TRAITS.generic_kinds,
        kv_strategies=NATIVE_TRAITS.kv_strategies,
        supports_disk_cache=False,
        supports_cpu_offload=True,
        supports_gpu_offload=True,
        supports_adapter=False,
        offload_reason="",
    )

    def load(
        self, plan: RuntimePlan, folder: Path, progress: ProgressSink, cancel: threading.Event
    ) -> LoadedModel:
        raise SpecializationLoadError("layer 3 has an unknown projection")


@pytest.fixture
def broken_loader() -> RuntimeLoader:
    registry = SpecializationRegistry()
    registry.register("native", [MatchesAll()])
    return RuntimeLoader(
        backends=(BrokenNative(), GenericBackend()), specialization_registry=registry
    )


def test_a_specialization_that_fails_falls_back_to_the_generic_backend_and_says_so(
    broken_loader: RuntimeLoader, tiny: Path
) -> None:
    assert broken_loader.plan(RuntimeConfig(f"path:{tiny}")).backend_id == "optimized-native"
    with broken_loader.load(RuntimeConfig(f"path:{tiny}")) as runtime:
        assert runtime.plan.backend_id == "transformers-generic"
        assert runtime.plan.specialization_state == "fallback"
        assert "unknown projection" in (runtime.plan.fallback_reason or "")


def test_with_an_explicit_backend_the_failure_reaches_the_caller(
    broken_loader: RuntimeLoader, tiny: Path
) -> None:
    with pytest.raises(SpecializationLoadError, match="unknown projection"):
        broken_loader.load(RuntimeConfig(f"path:{tiny}", backend="optimized-native"))


def test_a_strategy_that_cannot_be_built_gives_way_to_the_next_of_its_chain(
    loader: RuntimeLoader, tmp_path: Path, saved_llama: Path
) -> None:
    import transformers

    folder = tmp_path / "eager"
    shutil.copytree(saved_llama, folder)
    config = RuntimeConfig(f"path:{folder}", strategy_selector_profile="bounded-window")
    planned = loader.plan(config)
    assert planned.kv.strategy == "sliding-window-ring-buffer"
    assert planned.kv.fallbacks == ("resident",)

    class OtherAttention(GenericBackend):
        """The generic backend with an attention that no window fits."""

        def load(self, *args: object) -> LoadedModel:
            loaded = super().load(*args)  # type: ignore[arg-type]
            assert isinstance(loaded.model, transformers.PreTrainedModel)
            loaded.model.config._attn_implementation = "flex_attention"
            return loaded

    with RuntimeLoader(backends=(OtherAttention(),)).load(config) as runtime:
        assert runtime.plan.kv.strategy == "resident"
        assert "cannot be built" in runtime.plan.kv.why


def test_downloading_a_local_path_gives_the_path(loader: RuntimeLoader, tiny: Path) -> None:
    assert loader.download(f"path:{tiny}") == tiny
    with pytest.raises(OllmError, match="no such folder"):
        loader.download(f"path:{tiny}-missing")
