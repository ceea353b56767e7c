"""Small real models and hand-made folders for the tests of `ollm_widgets.models`."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub.fixtures import hub, origin, quick_retries  # noqa: F401  (found by name)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WriteSafetensors = Callable[..., Path]


def write_safetensors(
    path: Path, tensors: dict[str, list[int]], *, dtype: str = "F32", itemsize: int = 4
) -> Path:
    header: dict[str, object] = {}
    position = 0
    for name, shape in tensors.items():
        size = itemsize
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(position))
    return path


@pytest.fixture(name="write_safetensors")
def _write_safetensors() -> WriteSafetensors:
    return write_safetensors


@pytest.fixture
def tiny_llama(saved_llama: Path, tmp_path: Path) -> Path:
    """A copy of the small Llama that a test may damage."""
    return Path(shutil.copytree(saved_llama, tmp_path / "tiny-llama"))


@pytest.fixture
def sharded_llama(saved_llama: Path, tmp_path: Path) -> Path:
    """The small Llama in several shards with an index."""
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(saved_llama, tmp_path / "sharded-llama"))
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(saved_llama).save_pretrained(folder, max_shard_size="40kB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """Change keys of a folder's config.json."""

    def edit(folder: Path, **changes: object) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.fixture
def add_to_hub_cache(tmp_path: Path) -> Callable[..., Path]:
    """Put a model into a hub cache at ``tmp_path/hub`` the way the hub's client does."""

    def add(model: Path, repo_id: str, commit: str = COMMIT, ref: str | None = "main") -> Path:
        repo = tmp_path / "hub" / f"models--{repo_id.replace('/', '--')}"
        snapshot = repo / "snapshots" / commit
        blobs = repo / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir(exist_ok=True)
        for file in model.iterdir():
            blob = blobs / f"{commit[:6]}{abs(hash(file.name)):x}"
            shutil.copyfile(file, blob)
            (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
        if ref is not None:
            (repo / "refs").mkdir(exist_ok=True)
            (repo / "refs" / ref).write_text(commit)
        return snapshot

    return add


@pytest.fixture
def private_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the package's cache and models folders into `tmp_path`."""
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("OLLM_MODELS_DIR", str(tmp_path / "managed"))
    return tmp_path


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama in GGUF with a byte-level tokenizer, written by the gguf library."""
    import gguf
    import numpy as np
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    hidden, inner, kv_width = 64, 96, 32
    tokens = [*bytes_to_unicode().values(), "ab", "cd", "<|end|>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(2)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    # transformers 5.17 takes a list of one for a text.
    writer.add_token_merges(["a b", "c d"])
    # transformers 5.17 reads no GGUF without one.
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}")
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), hidden),
        "output_norm.weight": (hidden,),
    }
    for layer in range(2):
        block = f"blk.{layer}."
        shapes |= {
            block + "attn_norm.weight": (hidden,),
            block + "ffn_norm.weight": (hidden,),
            block + "attn_q.weight": (hidden, hidden),
            block + "attn_k.weight": (kv_width, hidden),
            block + "attn_v.weight": (kv_width, hidden),
            block + "attn_output.weight": (hidden, hidden),
            block + "ffn_gate.weight": (inner, hidden),
            block + "ffn_up.weight": (inner, hidden),
            block + "ffn_down.weight": (hidden, inner),
        }
    for name, shape in shapes.items():
        writer.add_tensor(name, random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
