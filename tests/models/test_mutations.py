"""Ten thousand damaged headers and configs: each is refused or read right, within bounds."""

from __future__ import annotations

import io
import json
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors

from ollm_widgets.errors import OllmError, UnsupportedModelError
from ollm_widgets.models.config_file import JSONObject, text_config
from ollm_widgets.models.dimensions import MAX_LAYERS
from ollm_widgets.models.examination import examine, examine_elsewhere
from ollm_widgets.models.files import FolderFiles
from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.kinds import NATIVE_KINDS
from ollm_widgets.models.tensors import TensorHeader, parse_safetensors_header

HEADERS = 6_000
CONFIGS = 4_000
PEAK_BYTES = 64_000_000

NUMBERS = (0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30))
VALUES: tuple[object, ...] = (
    *NUMBERS,
    None,
    True,
    False,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\u0000",
    "\ud800",
    "9" * 5_000,
    [],
    [[]],
    [None],
    [-1, 2**70],
    ["x"] * 100,
    {},
    {"x": {"x": {}}},
    {"model_type": "llama"},
    {"quant_method": "gptq", "bits": 10**40},
    {"quant_method": []},
)
ODD_BYTES = (
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"{",
    b"}",
    b'"',
    b",",
    b"-",
    b"1e999",
    b"\\u",
    b"[" * 9,
)


@contextmanager
def bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < PEAK_BYTES, f"{peak:,} bytes at the peak"


def mutate_bytes(content: bytes, dice: random.Random) -> bytes:
    """A few small changes: bytes replaced, put in, taken out, repeated, cut off."""
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        at = dice.randrange(len(content) + 1)
        to = min(len(content), at + dice.choice((1, 1, 2, 8, 40)))
        middle, rest = dice.choice(
            (
                (dice.randbytes(to - at), content[to:]),
                (dice.choice(ODD_BYTES), content[at:]),
                (b"", content[to:]),
                (content[at:to], content[at:]),
                (b"", b""),
            )
        )
        content = content[:at] + middle + rest
    return content


def mutate_object(value: object, dice: random.Random) -> object:
    """One value somewhere in a JSON document replaced, renamed, taken out or moved."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(list(value))
        changed = dict(value)
        action = dice.randrange(6)
        if action == 0:
            del changed[key]
        elif action == 1:
            changed[f"{key}{dice.choice(('', 's', '_', '.'))}x"] = changed.pop(key)
        elif action == 2:
            changed[key] = changed[dice.choice(list(changed))]
        else:
            changed[key] = mutate_object(changed[key], dice)
        return changed
    if isinstance(value, list) and value and dice.random() < 0.7:
        at = dice.randrange(len(value))
        return [*value[:at], mutate_object(value[at], dice), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and dice.random() < 0.5:
        return value + dice.choice((-1, 1, 7, -value * 2, 2**40))
    return dice.choice(VALUES)


def mutated_headers(path: Path, count: int) -> Iterator[bytes]:
    """Whole files: half with changed bytes, half with a changed but well-formed header."""
    dice = random.Random(20_250_101)
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + size], content[8 + size :]
    entries = json.loads(header)
    for number in range(count):
        kind = number % 4
        if kind == 0:
            damaged = mutate_bytes(header, dice)
            yield struct.pack("<Q", len(damaged)) + damaged + data
        elif kind == 1:
            length = dice.choice((0, 1, size - 1, size + 1, 2**31, 2**62, 2**64 - 1))
            yield struct.pack("<Q", length) + header + data[: dice.randrange(len(data))]
        else:
            changed = entries
            for _ in range(dice.choice((1, 1, 2))):
                changed = mutate_object(changed, dice)
            encoded = json.dumps(changed).encode(errors="replace")
            encoded += b" " * dice.choice((0, 0, 8))
            yield struct.pack("<Q", len(encoded)) + encoded + data


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    """A safetensors file whose data are a few bytes."""
    header = {
        "__metadata__": {"format": "pt"},
        "model.layers.0.a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "model.layers.1.a.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "lm_head.weight": {"dtype": "I8", "shape": [], "data_offsets": [32, 33]},
        "empty": {"dtype": "U8", "shape": [0, 7], "data_offsets": [33, 33]},
    }
    encoded = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(33))
    return path


def test_a_damaged_header_is_refused_or_read_as_safetensors_reads_it(small_file: Path) -> None:
    accepted = 0
    messages: list[str] = []
    with bounded_memory():
        for content in mutated_headers(small_file, HEADERS):
            read = io.BytesIO(content).read
            try:
                headers = parse_safetensors_header("x.safetensors", read, len(content))
            except OllmError as error:
                messages.append(error.message)
                continue
            accepted += 1
            known = {name: tensor["shape"] for name, tensor in safetensors.deserialize(content)}
            assert {header.name: list(header.shape) for header in headers} == known
            (size,) = struct.unpack("<Q", content[:8])
            assert sum(header.size_bytes for header in headers) == len(content) - 8 - size
    assert all("x.safetensors" in message and len(message) < 20_000 for message in messages)
    assert len(messages) > HEADERS // 2
    assert accepted > 50


class ChangedConfig(FolderFiles):
    """A folder's files with another config."""

    def __init__(self, folder: Path, config: object) -> None:
        super().__init__(folder)
        self._config = config
        self._headers: dict[str, tuple[TensorHeader, ...]] = {}

    def read_json(self, name: str, limit_bytes: int = 10_000_000) -> JSONObject:
        if name != "config.json":
            return super().read_json(name, limit_bytes)
        if not isinstance(self._config, dict):
            raise UnsupportedModelError("config.json is no object.")
        return self._config


def nested(config: dict[str, object]) -> dict[str, object]:
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            **config,
            "model_type": "gemma3_text",
            "sliding_window": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        "vision_config": {"hidden_size": 8},
        "quantization_config": {"quant_method": "fp8", "config_groups": {"a": {"weights": {}}}},
    }


@pytest.mark.parametrize("shape_of", [dict, nested])
def test_a_changed_config_is_refused_or_read_right(
    tiny_llama: Path, shape_of: Callable[[dict[str, object]], dict[str, object]]
) -> None:
    dice = random.Random(7)
    config = shape_of(json.loads((tiny_llama / "config.json").read_text()))
    plain = examine_elsewhere(ChangedConfig(tiny_llama, config)).shape
    assert plain is not None
    with bounded_memory():
        for _ in range(CONFIGS // 2 - 200):
            changed: object = config
            for _ in range(dice.choice((1, 1, 2, 4))):
                changed = mutate_object(changed, dice)
            found = examine_elsewhere(ChangedConfig(tiny_llama, changed))
            if found.refusal is not None:
                assert len(found.refusal) < 20_000
                continue
            assert isinstance(changed, dict)
            assert found.kind in NATIVE_KINDS
            if found.shape is None:
                continue
            assert 0 < found.shape.layers <= MAX_LAYERS
            assert found.shape.head_dim >= 0
            stated = text_config(changed).get("hidden_size")
            if type(stated) is int:
                assert found.shape.hidden_size == stated


def test_a_config_of_damaged_bytes_is_refused_or_read(tiny_llama: Path) -> None:
    dice = random.Random(11)
    path = tiny_llama / "config.json"
    content = path.read_bytes()
    with bounded_memory():
        for _ in range(400):
            path.write_bytes(mutate_bytes(content, dice))
            found = examine(tiny_llama)
            model = inspect_materialized_model("path:x", tiny_llama, "local-path")
            assert model.problem == found.problem
            assert model.is_supported() == (found.refusal is None)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"hidden_size": ' + b"9" * 100_000 + b"}",
        b'{"layer_types": [' + b'"x",' * 300_000 + b'"x"]}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b'{"a": 1, "a": 2}',
    ],
    ids=["lists", "objects", "digits", "long", "mark", "utf-16", "twice"],
)
def test_a_hostile_config_is_read_in_bounded_memory(tiny_llama: Path, content: bytes) -> None:
    (tiny_llama / "config.json").write_bytes(content)
    with bounded_memory():
        found = examine(tiny_llama)
    assert found.refusal is not None


@pytest.mark.parametrize(
    "header",
    [
        b"{" * 100_000,
        b'{"a":{"dtype":"F32","shape":[' + b"[" * 100_000,
        b'{"a":{"dtype":"F32","shape":[' + b"1," * 100_000 + b'1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[' + b"9999999999999999999," * 2_000 + b"1]}}",
        b'{"a":{"dtype":"U8","shape":['
        + b"4611686018427387904," * 5_000
        + b'0],"data_offsets":[0,0]}}',
        b'{"' + b"a" * 1_000_000 + b'":1}',
    ],
    ids=["objects", "lists", "dimensions", "digits", "product", "name"],
)
def test_a_hostile_header_is_read_in_bounded_memory(header: bytes) -> None:
    content = struct.pack("<Q", len(header)) + header
    with bounded_memory(), pytest.raises(OllmError) as caught:
        parse_safetensors_header("x.safetensors", io.BytesIO(content).read, len(content))
    assert len(str(caught.value)) < 20_000


def test_a_wrong_shape_of_many_dimensions_makes_a_short_message() -> None:
    shape = ",".join(["1"] * 100_000)
    header = f'{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,8]}}}}'.encode()
    content = struct.pack("<Q", len(header)) + header + bytes(8)
    with pytest.raises(OllmError, match="should start at 0") as caught:
        parse_safetensors_header("x.safetensors", io.BytesIO(content).read, len(content))
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    "header",
    [
        '{"a":{},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        '{"a":{"dtype":"F64","dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        '{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "\\u0061": {}}',
    ],
)
def test_a_key_that_occurs_twice_is_refused(header: str) -> None:
    content = struct.pack("<Q", len(header)) + header.encode() + bytes(1)
    with pytest.raises(OllmError, match="twice"):
        parse_safetensors_header("x.safetensors", io.BytesIO(content).read, len(content))
