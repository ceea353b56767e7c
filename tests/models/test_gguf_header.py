from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollm_widgets.errors import MalformedModelError
from ollm_widgets.models.gguf_header import GGML_TYPES, read_gguf_header


def test_the_block_sizes_are_those_of_the_gguf_library() -> None:
    from gguf.constants import GGML_QUANT_SIZES

    known = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}
    ours = {kind: (block, size) for kind, (_, block, size) in GGML_TYPES.items()}
    assert ours == {kind: known[kind] for kind in ours}


def test_headers_agree_with_the_gguf_library(smollm_gguf: Path) -> None:
    from gguf import GGUFReader

    header = read_gguf_header(smollm_gguf)
    reader = GGUFReader(smollm_gguf)
    assert [tensor.name for tensor in header.tensors] == [tensor.name for tensor in reader.tensors]
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert ours.shape == tuple(reversed(theirs.shape.tolist()))
        assert ours.elements == theirs.n_elements
        assert ours.size_bytes == theirs.n_bytes
    assert header.text("general.architecture") == "llama"
    assert header.integer("llama.block_count") == 30
    assert header.array_length("tokenizer.ggml.tokens") == 49_152
    template = reader.fields["tokenizer.chat_template"].contents()
    assert header.text("tokenizer.chat_template") == template


def test_a_truncated_file_is_named_with_the_bytes_it_lacks(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:-500])
    with pytest.raises(MalformedModelError, match=r"cut\.gguf.*bytes are missing"):
        read_gguf_header(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"NOPE" + bytes(40),
        b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62),
        # An array that says it holds 2**60 numbers, or strings.
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 0, 2**60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99),
        b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<I", 2**31),
        b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 4, 99, 0),
    ],
)
def test_a_damaged_header_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(MalformedModelError, match=r"bad\.gguf"):
        read_gguf_header(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_header_or_a_malformed_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + content)
    with pytest.raises(MalformedModelError):
        read_gguf_header(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_real_header_with_changed_bytes_is_read_or_malformed(
    tiny_gguf: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(tiny_gguf.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, 6_000))] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.gguf"
    path.write_bytes(content)
    with contextlib.suppress(MalformedModelError):
        read_gguf_header(path)
