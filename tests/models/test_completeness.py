from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets.models.completeness import find_gaps


def test_a_saved_model_has_no_gaps(tiny_llama: Path, sharded_llama: Path) -> None:
    assert find_gaps(tiny_llama) == ()
    assert find_gaps(sharded_llama) == ()


def test_a_gguf_file_and_its_folder_have_no_gaps(tiny_gguf: Path, smollm_gguf: Path) -> None:
    assert find_gaps(tiny_gguf) == ()
    assert find_gaps(tiny_gguf.parent) == ()
    assert find_gaps(smollm_gguf) == ()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_each_missing_file_is_one_gap(tiny_llama: Path, name: str) -> None:
    (tiny_llama / name).unlink()
    gaps = find_gaps(tiny_llama)
    assert len(gaps) == 1
    assert name in gaps[0]


def test_gaps_are_listed_one_by_one(sharded_llama: Path) -> None:
    first, second, *_ = sorted(sharded_llama.glob("model-*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-7])
    (sharded_llama / "tokenizer.json").unlink()
    gaps = find_gaps(sharded_llama)
    assert len(gaps) == 3
    assert f"{first} is missing." in gaps
    assert any(second.name in gap and "7 of" in gap for gap in gaps)


def test_a_shard_that_lacks_a_tensor_of_the_index_is_a_gap(sharded_llama: Path) -> None:
    path = sharded_llama / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.extra.weight"] = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps(index))
    (gap,) = find_gaps(sharded_llama)
    assert "lacks 1 tensors" in gap
    assert "model.extra.weight" in gap


def test_a_damaged_config_is_a_gap(tiny_llama: Path) -> None:
    (tiny_llama / "config.json").write_text("{")
    (gap,) = find_gaps(tiny_llama)
    assert "not valid JSON" in gap


def test_an_image_model_needs_a_processor(
    tiny_llama: Path, edit_config: Callable[..., None]
) -> None:
    edit_config(tiny_llama, vision_config={"hidden_size": 8})
    (gap,) = find_gaps(tiny_llama)
    assert "no processor" in gap
    (tiny_llama / "preprocessor_config.json").write_text("{}")
    assert find_gaps(tiny_llama) == ()


@pytest.mark.parametrize(
    "files", [("tokenizer.model",), ("vocab.json", "merges.txt"), ("tekken.json",), ("x.tiktoken",)]
)
def test_any_known_kind_of_tokenizer_will_do(tiny_llama: Path, files: tuple[str, ...]) -> None:
    (tiny_llama / "tokenizer.json").unlink()
    for name in files:
        (tiny_llama / name).touch()
    assert find_gaps(tiny_llama) == ()


def test_a_byte_tokenizer_needs_no_vocabulary(tiny_llama: Path) -> None:
    (tiny_llama / "tokenizer.json").unlink()
    (tiny_llama / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert find_gaps(tiny_llama) == ()


def test_pickle_weights_do_not_count(tiny_llama: Path) -> None:
    (tiny_llama / "model.safetensors").rename(tiny_llama / "pytorch_model.bin")
    (gap,) = find_gaps(tiny_llama)
    assert "pytorch_model.bin" in gap
    assert "never read" in gap


def test_a_truncated_gguf_file_is_a_gap(tiny_gguf: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_gguf, tmp_path))
    path.write_bytes(path.read_bytes()[:-100])
    (gap,) = find_gaps(path)
    assert "missing" in gap


def test_what_does_not_exist_is_one_gap(tmp_path: Path) -> None:
    assert find_gaps(tmp_path / "nothing") == (f"{tmp_path / 'nothing'} does not exist.",)
