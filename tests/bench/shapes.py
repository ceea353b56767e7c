"""The checkpoints that benchmarks run on: random weights in shapes that people use.

They are written tensor by tensor, so that a checkpoint may be larger than memory.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

ITEM_BYTES = 2  # bfloat16
_SHARD_BYTES = 4 * 10**9
_WRITERS = 4
_STANDARD_DEVIATION = 0.02
# Embeddings that small drown in what random layers add to them, the average of all tokens first:
# tokens become alike, and routers send them to the same few experts, which trained ones do not.
# What a layer adds is scaled as in GPT-2, by one over the root of twice the layers.
_EMBEDDING_DEVIATION = 1.0
_ADDED_DEVIATION = 0.003

TensorShape = tuple[str, tuple[int, ...]]
# By safetensors' names.
_DTYPE_BYTES = {"BF16": ITEM_BYTES, "F8_E4M3": 1, "F32": 4}
_FP8_BLOCK = 128
_FP8_MOST = 448.0


class StoredTensor(NamedTuple):
    """A tensor of a checkpoint."""

    name: str
    dims: tuple[int, ...]
    dtype: str = "BF16"

    @property
    def size_bytes(self) -> int:
        """Its bytes in the file."""
        return math.prod(self.dims) * _DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder like Llama, or like Qwen3-MoE where it has experts; bfloat16, untied.

    With `fp8` the checkpoint has the projections of its layers in 8 bits, and a scale to each block
    of 128 rows and columns. All other sizes are those of what runs.
    """

    name: str
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int = 0
    active_experts: int = 0
    fp8: bool = False

    @property
    def layers_bytes(self) -> int:
        """All decoder layers."""
        return self.layers * _bytes_of(self._layer(0))

    @property
    def total_bytes(self) -> int:
        """All weights."""
        return _bytes_of(self.tensors())

    @property
    def read_per_token_bytes(self) -> int:
        """What a decoded token reads: of the experts the chosen ones, of the embedding a row."""
        idle_bytes = self.layers * (self.experts - self.active_experts) * self._expert_bytes
        return self.total_bytes - self.vocab * self.hidden * ITEM_BYTES - idle_bytes

    @property
    def chosen_experts_bytes(self) -> int:
        """Experts that one token chooses, over all layers."""
        return self.layers * self.active_experts * self._expert_bytes

    def kv_bytes(self, tokens: int) -> int:
        """Keys and values of one sequence."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * ITEM_BYTES

    @property
    def _expert_bytes(self) -> int:
        return 3 * self.hidden * self.intermediate * ITEM_BYTES

    def tensors(self) -> Iterator[TensorShape]:
        """Names and shapes as they are in the checkpoint, in order."""
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for number in range(self.layers):
            yield from self._layer(number)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocab, self.hidden)

    def stored(self) -> Iterator[StoredTensor]:
        """All tensors as they are in the checkpoint, in order."""
        for name, dims in self.tensors():
            if not self.fp8 or not name.endswith("_proj.weight"):
                yield StoredTensor(name, dims)
                continue
            yield StoredTensor(name, dims, "F8_E4M3")
            blocks = tuple(-(-size // _FP8_BLOCK) for size in dims)
            yield StoredTensor(f"{name}_scale_inv", blocks, "F32")

    def _layer(self, number: int) -> Iterator[TensorShape]:
        prefix, hidden = f"model.layers.{number}", self.hidden
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
            yield f"{prefix}.self_attn.{name}_proj.weight", (heads * self.head_dim, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, self.heads * self.head_dim)
        if not self.experts:
            yield from self._feed_forward(f"{prefix}.mlp")
            return
        for name in ("q_norm", "k_norm"):
            yield f"{prefix}.self_attn.{name}.weight", (self.head_dim,)
        yield f"{prefix}.mlp.gate.weight", (self.experts, hidden)
        for expert in range(self.experts):
            yield from self._feed_forward(f"{prefix}.mlp.experts.{expert}")

    def _feed_forward(self, prefix: str) -> Iterator[TensorShape]:
        for name in ("gate", "up"):
            yield f"{prefix}.{name}_proj.weight", (self.intermediate, self.hidden)
        yield f"{prefix}.down_proj.weight", (self.hidden, self.intermediate)

    def config(self) -> dict[str, object]:
        """What goes into config.json. No token ends an answer, so that lengths are as asked."""
        config: dict[str, object] = {
            "architectures": ["Qwen3MoeForCausalLM" if self.experts else "LlamaForCausalLM"],
            "model_type": "qwen3_moe" if self.experts else "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "bos_token_id": None,
            "eos_token_id": None,
        }
        if self.fp8:
            config["quantization_config"] = {
                "quant_method": "fp8",
                "activation_scheme": "dynamic",
                "weight_block_size": [_FP8_BLOCK, _FP8_BLOCK],
                "modules_to_not_convert": ["lm_head"],
            }
        if self.experts:
            config |= {
                "moe_intermediate_size": self.intermediate,
                "intermediate_size": 3 * self.hidden,
                "num_experts": self.experts,
                "num_experts_per_tok": self.active_experts,
                "norm_topk_prob": True,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
            }
        return config


LLAMA_8B = Shape("llama-8b", 128256, 4096, 14336, 32, 32, 8, 128)
LLAMA_8B_FP8 = replace(LLAMA_8B, name="llama-8b-fp8", fp8=True)
MOE_30GB = Shape("moe-30gb", 32000, 2048, 768, 24, 32, 4, 128, experts=128, active_experts=8)
DENSE_400MB = Shape("dense-400mb", 16384, 1024, 4096, 11, 16, 4, 64)
DENSE_6GB = Shape("dense-6gb", 32000, 3072, 8192, 28, 24, 8, 128)
TINY = Shape("tiny", 512, 64, 128, 4, 4, 2, 16)
TINY_FP8 = Shape("tiny-fp8", 512, 128, 256, 4, 4, 2, 32, fp8=True)
TINY_MOE = Shape("tiny-moe", 512, 64, 32, 4, 4, 2, 16, experts=8, active_experts=2)
SHAPES = {
    shape.name: shape
    for shape in (
        LLAMA_8B,
        LLAMA_8B_FP8,
        MOE_30GB,
        DENSE_400MB,
        DENSE_6GB,
        TINY,
        TINY_FP8,
        TINY_MOE,
    )
}


def is_made(shape: Shape, folder: Path) -> bool:
    """Whether the checkpoint is complete: its config is written last."""
    return (folder / shape.name / "config.json").is_file()


def make(shape: Shape, folder: Path, device: str) -> Path:
    """Write the checkpoint below `folder`, its weights drawn on `device`, or find it there."""
    checkpoint = folder / shape.name
    if is_made(shape, folder):
        return checkpoint
    checkpoint.mkdir(parents=True, exist_ok=True)
    shards = _shards(shape)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    with ThreadPoolExecutor(_WRITERS if device != "cpu" else 1) as writers:
        written = [
            writers.submit(_write_shard, checkpoint / name, shard, device)
            for name, shard in zip(names, shards, strict=True)
        ]
        for each in written:
            each.result()
    weight_map = {
        tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard
    }
    total_bytes = sum(tensor.size_bytes for tensor in shape.stored())
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    _write_tokenizer(checkpoint, shape.vocab)
    (checkpoint / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    (checkpoint / "config.json").write_text(json.dumps(shape.config(), indent=1))
    return checkpoint


def _bytes_of(tensors: Iterator[TensorShape]) -> int:
    return sum(math.prod(dims) * ITEM_BYTES for _name, dims in tensors)


def _shards(shape: Shape) -> list[list[StoredTensor]]:
    """Cut into files of about 4 GB, and at least two, as large checkpoints come."""
    limit_bytes = min(_SHARD_BYTES, shape.total_bytes // 2 + 1)
    shards: list[list[StoredTensor]] = [[]]
    size_bytes = 0
    for tensor in shape.stored():
        if size_bytes + tensor.size_bytes > limit_bytes and shards[-1]:
            shards.append([])
            size_bytes = 0
        shards[-1].append(tensor)
        size_bytes += tensor.size_bytes
    return shards


def _write_shard(path: Path, tensors: list[StoredTensor], device: str) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.size_bytes
        described = {"dtype": tensor.dtype, "shape": tensor.dims, "data_offsets": [offset, end]}
        header[tensor.name] = described
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(_draw(tensor, device).numpy().data)


def _draw(stored: StoredTensor, device: str) -> torch.Tensor:
    """Draw a tensor from the distribution that it has in a model of some depth; its bytes."""
    import torch

    name = stored.name
    # The largest values of a normal distribution, 6 deviations off, are as large as 8 bits say. Of
    # billions a few lie beyond, which would become no numbers, and all logits with them.
    scale = 6 * _STANDARD_DEVIATION / _FP8_MOST
    if stored.dtype == "F32":
        return torch.full(stored.dims, scale).view(-1).view(torch.uint8)
    tensor = torch.ones(stored.dims, dtype=torch.bfloat16, device=device)
    if "norm" not in name:
        generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
        tensor.normal_(0, _deviation(name), generator=generator)
    if stored.dtype == "F8_E4M3":
        tensor = (tensor / scale).clamp_(-_FP8_MOST, _FP8_MOST).to(torch.float8_e4m3fn)
    return tensor.view(-1).view(torch.uint8).cpu()


def _deviation(name: str) -> float:
    if "embed" in name:
        return _EMBEDDING_DEVIATION
    adds = name.endswith(("o_proj.weight", "down_proj.weight"))
    return _ADDED_DEVIATION if adds else _STANDARD_DEVIATION


def _write_tokenizer(checkpoint: Path, vocab: int) -> None:
    """Write a tokenizer that has a word for every id, so that every token shows as text."""
    words = {f"t{index}": index for index in range(vocab)}
    document = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "t0"},
    }
    (checkpoint / "tokenizer.json").write_text(json.dumps(document))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "t0"}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))
