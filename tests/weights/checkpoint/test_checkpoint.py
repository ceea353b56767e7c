from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ollm_widgets.errors import CheckpointChangedError, MalformedModelError, UnsafeModelError
from ollm_widgets.models.tensors import INDEX_NAME
from ollm_widgets.weights.checkpoint.index import CheckpointIndex


def bytes_at(index: CheckpointIndex, name: str) -> bytes:
    span = index.spans[name]
    with span.path.open("rb") as file:
        file.seek(span.offset_bytes)
        return file.read(span.size_bytes)


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).to(torch.bfloat16),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(3),
        "c": torch.randint(0, 9, (2, 2), dtype=torch.uint8),
    }


def test_every_tensor_lies_where_the_index_says(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    index = CheckpointIndex.of(tmp_path)
    assert set(index.spans) == set(tensors)
    for name, tensor in tensors.items():
        span = index.spans[name]
        assert bytes_at(index, name) == raw(tensor)
        assert span.shape == tuple(tensor.shape)
        assert span.dtype == str(tensor.dtype).removeprefix("torch.")
    assert index.total_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_shards_give_the_tensors_of_the_whole(saved_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(saved_llama)
    model.save_pretrained(tmp_path, max_shard_size="40kB")
    whole, parts = CheckpointIndex.of(saved_llama), CheckpointIndex.of(tmp_path)
    assert len(parts.identities) > 1
    assert set(whole.spans) == set(parts.spans)
    assert all(bytes_at(whole, name) == bytes_at(parts, name) for name in whole.spans)


def test_files_without_an_index_are_all_read(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    save_file({"a": tensors["a"]}, tmp_path / "one.safetensors")
    save_file({"b": tensors["b"]}, tmp_path / "two.safetensors")
    assert set(CheckpointIndex.of(tmp_path).spans) == {"a", "b"}


def test_two_files_with_the_same_tensor_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    save_file({"a": tensors["a"]}, tmp_path / "one.safetensors")
    save_file({"a": tensors["a"] + 1}, tmp_path / "two.safetensors")
    with pytest.raises(MalformedModelError, match=r"one.*two.*'a'"):
        CheckpointIndex.of(tmp_path)


def test_the_index_file_says_which_of_two_files_counts(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    save_file({"a": tensors["a"], "b": tensors["b"]}, tmp_path / "one.safetensors")
    save_file({"a": tensors["a"] + 1, "c": tensors["c"]}, tmp_path / "two.safetensors")
    where = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": where}))
    index = CheckpointIndex.of(tmp_path)
    assert set(index.spans) == {"a", "b", "c"}
    assert bytes_at(index, "a") == raw(tensors["a"])


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedModelError, match="no safetensors weights"):
        CheckpointIndex.of(tmp_path)


def test_a_shard_outside_the_folder_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "elsewhere.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    where = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (folder / INDEX_NAME).write_text(json.dumps(where))
    with pytest.raises(UnsafeModelError, match="outside the model's folder"):
        CheckpointIndex.of(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(MalformedModelError, match=r"gone\.safetensors"):
        CheckpointIndex.of(tmp_path)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _replace(path: Path) -> None:
    status = path.stat()
    other = path.with_name("other")
    shutil.copy(path, other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def _write_to(path: Path) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_append, "it had 92 bytes and now has 96"),
        (_truncate, "it had 92 bytes and now has 91"),
        (_replace, "another file of the same size"),
        (_write_to, "it was written to"),
        (_remove, "can no longer be reached"),
    ],
)
def test_a_change_of_a_file_is_noticed(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(4, dtype=torch.uint8)}, path)
    # A header of a known length, so that the message can be told in full.
    header = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'.ljust(80)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"abcd")
    index = CheckpointIndex.of(tmp_path)
    index.require_unchanged(path)
    change(path)
    with pytest.raises(CheckpointChangedError, match=said) as raised:
        index.require_unchanged(path)
    assert str(path) in raised.value.message
    assert raised.value.hint


def test_tensors_of_an_unaligned_header_are_found(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    assert len(header) % 8
    value = torch.tensor([1.5, -2.0])
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw(value))
    assert bytes_at(CheckpointIndex.of(tmp_path), "a") == raw(load_file(path)["a"]) == raw(value)
