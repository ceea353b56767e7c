from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollm_widgets.errors import MalformedModelError, UnsafeModelError
from ollm_widgets.models.files import FolderFiles
from ollm_widgets.models.inventory import read_safetensors_inventory
from ollm_widgets.models.tensors import INDEX_NAME, read_safetensors_header, read_shard_names


def test_headers_agree_with_the_safetensors_library(tiny_llama: Path) -> None:
    from safetensors import safe_open

    headers = {h.name: h for h in read_safetensors_header(tiny_llama / "model.safetensors")}
    with safe_open(tiny_llama / "model.safetensors", framework="pt") as file:
        assert set(headers) == set(file.keys())
        for name in file.keys():  # noqa: SIM118  (safe_open is not a mapping)
            tensor = file.get_tensor(name)
            assert headers[name].shape == tuple(tensor.shape)
            assert headers[name].dtype == str(tensor.dtype).removeprefix("torch.")
            assert headers[name].size_bytes == tensor.nbytes


def test_the_inventory_sorts_layers_embedding_and_the_rest(tiny_llama: Path) -> None:
    weights, own_output = read_safetensors_inventory(FolderFiles(tiny_llama))
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64
    assert weights.layer_parameters == (layer, layer)
    assert weights.layer_bytes == (2 * layer, 2 * layer)
    assert weights.embedding_parameters == 128 * 64
    assert weights.other_parameters == 128 * 64 + 64
    assert weights.parameters == 2 * layer + 2 * 128 * 64 + 64
    assert weights.total_bytes == 2 * weights.parameters
    assert weights.dtype == "bfloat16"
    assert own_output


def test_shards_add_up_to_the_whole(tiny_llama: Path, sharded_llama: Path) -> None:
    whole, _ = read_safetensors_inventory(FolderFiles(tiny_llama))
    parts, _ = read_safetensors_inventory(FolderFiles(sharded_llama))
    assert len(parts.files) > 1
    assert parts.layer_bytes == whole.layer_bytes
    assert parts.total_bytes == whole.total_bytes


def test_packed_mxfp4_blocks_count_two_parameters_a_byte(
    tmp_path: Path, write_safetensors: Callable[..., Path]
) -> None:
    write_safetensors(
        tmp_path / "model.safetensors",
        {
            "model.layers.0.mlp.experts.down_proj_blocks": [4, 8, 16],
            "model.layers.0.mlp.experts.down_proj_scales": [4, 8],
        },
        dtype="U8",
        itemsize=1,
    )
    weights, _ = read_safetensors_inventory(FolderFiles(tmp_path))
    assert weights.parameters == 2 * 4 * 8 * 16
    assert weights.total_bytes == 4 * 8 * 16 + 4 * 8


def test_a_truncated_file_is_named_with_the_bytes_it_lacks(tiny_llama: Path) -> None:
    path = tiny_llama / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1234])
    with pytest.raises(MalformedModelError, match=r"model\.safetensors.*1,234 of .* missing"):
        read_safetensors_header(path)


def test_bytes_after_the_last_tensor_are_refused(tiny_llama: Path) -> None:
    path = tiny_llama / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(MalformedModelError, match="4 bytes after its last tensor"):
        read_safetensors_header(path)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": "XX", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296, 4294967296, 4294967296], '
        b'"data_offsets": [0, 4]}}',
        b"[" * 100_000,
        b'{"a": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_damaged_header_is_an_error_that_names_the_file(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(MalformedModelError, match=r"model\.safetensors"):
        read_safetensors_header(path)


def test_an_enormous_header_length_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + bytes(100))
    with pytest.raises(MalformedModelError, match="at most 100,000,000"):
        read_safetensors_header(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_header_or_a_malformed_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.safetensors"
    for prefix in (b"", struct.pack("<Q", len(content))):
        path.write_bytes(prefix + content)
        with contextlib.suppress(MalformedModelError):
            read_safetensors_header(path)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["F32", "BF16", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "a"]), inner
        )
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(header=_json)
def test_any_json_header_is_read_or_a_malformed_model(tmp_path: Path, header: object) -> None:
    path = tmp_path / "any.safetensors"
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded)
    with contextlib.suppress(MalformedModelError):
        read_safetensors_header(path)


@pytest.mark.parametrize(
    "shard",
    ["../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "C:\\x.safetensors"],
)
def test_an_index_that_names_a_file_outside_the_folder_is_unsafe(
    tmp_path: Path, shard: str
) -> None:
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(UnsafeModelError, match="outside"):
        read_shard_names(tmp_path)


def test_an_index_that_names_pickle_shards_is_unsafe(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": "model-1.bin"}}))
    with pytest.raises(UnsafeModelError, match="not a safetensors file"):
        read_shard_names(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_without_a_weight_map_is_malformed(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX_NAME).write_text(content)
    with pytest.raises(MalformedModelError):
        read_shard_names(tmp_path)
