"""Reading one GGUF file's header into facts."""

from __future__ import annotations

from pathlib import Path

from ollm_widgets.errors import UnsupportedModelError
from ollm_widgets.models.completeness import find_gaps
from ollm_widgets.models.dimensions import shape_from_gguf
from ollm_widgets.models.facts import Examination
from ollm_widgets.models.gguf_families import GGUF_FAMILIES
from ollm_widgets.models.gguf_header import read_gguf_header
from ollm_widgets.models.inventory import sum_headers
from ollm_widgets.render.units import format_bytes


def examine_gguf(path: Path) -> Examination:
    """Read a GGUF file's header.

    Raises
    ------
    UnsupportedModelError
        When it is damaged.
    """
    header = read_gguf_header(path)
    name = header.text("general.architecture") or "unknown"
    family = GGUF_FAMILIES.get(name)
    weights = sum_headers(header.tensors, (path.name,))
    prefix = f"{name}."
    found = Examination(
        path,
        str(path),
        architecture=family.architecture if family else None,
        model_type=family.model_type if family else name,
        kind="causal-lm" if family else None,
        shape=shape_from_gguf(header),
        weights=weights,
        weight_format="gguf",
        dtype=weights.dtype,
        has_chat_template=header.text("tokenizer.chat_template") is not None,
        experts=header.integer(prefix + "expert_count") or None,
        active_experts=header.integer(prefix + "expert_used_count") or None,
        licence=header.text("general.license"),
        gaps=find_gaps(path),
        details=(
            f"GGUF in {weights.dtype}: expanded once to bfloat16 safetensors "
            f"({format_bytes(2 * weights.parameters)}) in the cache before its first load.",
        ),
    )
    if (header.integer("split.count") or 1) > 1:
        return found.refused(
            UnsupportedModelError(
                f"{path} is one of {header.integer('split.count')} parts of a split GGUF model.",
                hint="Join the parts with llama-gguf-split --merge, or use safetensors.",
            )
        )
    if family is None:
        return found.refused(
            UnsupportedModelError(
                f"{path} holds a {name!r} model; the GGUF architectures that can be converted are "
                f"{', '.join(sorted(GGUF_FAMILIES))}.",
                hint="Use a safetensors version of the model.",
            )
        )
    return found
