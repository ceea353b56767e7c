"""How a checkpoint's weights are quantized, and which of its tensors are weights at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ollm_widgets.models.config_file import JSONObject, read_int, read_text, text_config
from ollm_widgets.models.tensors import TensorHeader

# transformers expands these to bfloat16 by itself where the machine lacks a kernel for them.
EXPANDABLE = ("mxfp4", "fp8")
# Library that transformers asks for to load a checkpoint of each method
# (transformers/quantizers/auto.py).
_LIBRARIES = {
    "aqlm": "aqlm",
    "auto-round": "auto-round",
    "awq": "gptqmodel",
    "bitnet": "accelerate",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "kernels",
    "fbgemm_fp8": "fbgemm-gpu",
    "fp_quant": "fp_quant",
    "gptq": "gptqmodel",
    "higgs": "flute-kernel",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "quark": "amd-quark",
    "spqr": "spqr_quant",
    "torchao": "torchao",
    "vptq": "vptq",
}
_PACKED_BITS = {"int32": 32, "uint32": 32, "uint8": 8, "int8": 8}
_PACKED = re.compile(r"\.(?:qweight|weight_packed)$")
# What the scales of "....weight" may be called, and their dtypes where kernels read them.
_FP8_SCALES = (".weight_scale_inv", ".scale", ".qscale_weight")
_FP8_SCALE_DTYPES = ("float32", "bfloat16", "float16")
_BOOKKEEPING = re.compile(
    r"(?:_scales"
    r"|\.(?:weight_scale(?:_inv|_2)?|input_scale|output_scale|activation_scale|[kv]_scale"
    r"|qzeros|scales|g_idx|weight_(?:zero_point|shape|g_idx)|SCB|weight_format"
    r"|weight\.(?:absmax|nested_absmax|quant_map|nested_quant_map|quant_state\.\w+)))$"
)


@dataclass(frozen=True, slots=True)
class Quantization:
    """The quantization that a config announces.

    Parameters
    ----------
    method
        ``quant_method`` of the config, ``bitsandbytes`` for its old form; ``"unnamed"`` when it
        announces a quantization without saying which.
    bits
        Bits of a weight, where the config says so.
    """

    method: str
    bits: int | None = None

    @property
    def runs(self) -> bool:
        """Whether plain transformers loads it on any machine."""
        return self.method in EXPANDABLE

    @property
    def title(self) -> str:
        """Name for people: ``gptq 4-bit``."""
        name = "an unnamed method" if self.method == "unnamed" else self.method
        return f"{name} {self.bits}-bit" if self.bits else name

    @property
    def reason(self) -> str:
        """Why a checkpoint of this method does not run; empty when it does."""
        if self.runs:
            return ""
        library = _LIBRARIES.get(self.method)
        needs = f"needs {library}" if library else "is not known here"
        return (
            f"quantized with {self.title}, which {needs} and whose kernels are not part of this "
            f"version; plain and {' and '.join(EXPANDABLE)} checkpoints run."
        )


def read_quantization(config: JSONObject) -> Quantization | None:
    """Read what a config says of quantization; ``None`` for a plain checkpoint."""
    stated = config.get("quantization_config") or text_config(config).get("quantization_config")
    if stated is None:
        stated = config.get("compression_config")
    if not isinstance(stated, dict) or not stated:
        return None
    method = read_text(stated, "quant_method", "quantization_method")
    if stated.get("load_in_4bit") is True or stated.get("_load_in_4bit") is True:
        return Quantization(method or "bitsandbytes", 4)
    if stated.get("load_in_8bit") is True or stated.get("_load_in_8bit") is True:
        return Quantization(method or "bitsandbytes", 8)
    return Quantization(method or "unnamed", _bits(stated))


def logical_elements(header: TensorHeader, quantization: Quantization | None = None) -> int:
    """Weights that a stored tensor stands for; 0 for scales and other bookkeeping.

    Parameters
    ----------
    header
        The tensor.
    quantization
        How the checkpoint is quantized; ``None`` for a plain one.
    """
    # MXFP4 packs two weights into each byte of "..._blocks" and keeps the blocks' exponents in
    # "..._scales", which are no parameters.
    if header.dtype == "uint8" and header.name.endswith("_blocks"):
        return header.elements * 2
    if header.dtype == "uint8" and header.name.endswith("_scales"):
        return 0
    if quantization is None:
        return header.elements
    if _BOOKKEEPING.search(header.name):
        return 0
    return _packed_weights(header, quantization)


def kept_as_stored(
    headers: Iterable[TensorHeader], quantization: Quantization | None
) -> frozenset[str]:
    """Name the quantized tensors, and their scales, that move as they are stored.

    They are expanded where they run. Other quantized tensors (fp4 in bytes, scales of other
    dtypes) are expanded when they are loaded.

    Parameters
    ----------
    headers
        All tensors of the checkpoint.
    quantization
        How it is quantized; ``None`` for a plain one.
    """
    if quantization is None or not quantization.runs:
        return frozenset()
    by_name = {header.name: header for header in headers}
    kept: set[str] = set()
    for header in by_name.values():
        if quantization.method == "fp8":
            scales = _fp8_scales(header, by_name)
        else:
            scales = _mxfp4_scales(header, by_name)
        if scales is not None:
            kept |= {header.name, scales.name}
    return frozenset(kept)


def _fp8_scales(values: TensorHeader, by_name: dict[str, TensorHeader]) -> TensorHeader | None:
    if values.dtype != "float8_e4m3fn" or not values.name.endswith(".weight"):
        return None
    stem = values.name.removesuffix(".weight")
    found = (by_name.get(f"{stem}{suffix}") for suffix in _FP8_SCALES)
    scales = next((header for header in found if header is not None), None)
    if scales is None or scales.dtype not in _FP8_SCALE_DTYPES or len(values.shape) < 2:
        return None
    blocks = scales.shape[-2:] if len(scales.shape) > 1 else (1, 1)
    whole = all(
        size % max(count, 1) == 0 for size, count in zip(values.shape[-2:], blocks, strict=True)
    )
    return scales if whole else None


def _mxfp4_scales(values: TensorHeader, by_name: dict[str, TensorHeader]) -> TensorHeader | None:
    stem, found, rest = values.name.rpartition("_blocks")
    if not found or rest or values.dtype != "uint8":
        return None
    scales = by_name.get(f"{stem}_scales")
    alike = scales is not None and scales.dtype == "uint8" and scales.shape == values.shape[:-1]
    return scales if alike and len(values.shape) == 4 and values.shape[-1] == 16 else None


def _packed_weights(header: TensorHeader, quantization: Quantization) -> int:
    """Weights in a tensor of a quantized checkpoint, of which an element may hold several."""
    if quantization.method == "fp8" and header.dtype == "int8":
        return header.elements * 2  # experts in fp4, two to a byte
    packed_bits = _PACKED_BITS.get(header.dtype)
    four_bit_bytes = (
        quantization.method == "bitsandbytes"
        and quantization.bits == 4
        and header.dtype == "uint8"
        and header.name.endswith(".weight")
    )
    if packed_bits and quantization.bits and (four_bit_bytes or _PACKED.search(header.name)):
        return header.elements * packed_bits // quantization.bits
    return header.elements


def _bits(stated: JSONObject) -> int | None:
    bits = read_int(stated, "bits", "w_bit", "num_bits")
    if bits is None:
        groups = stated.get("config_groups")
        for group in groups.values() if isinstance(groups, dict) else ():
            weights = group.get("weights") if isinstance(group, dict) else None
            if isinstance(weights, dict):
                bits = read_int(weights, "num_bits")
                break
    return bits if bits and bits <= 64 else None
