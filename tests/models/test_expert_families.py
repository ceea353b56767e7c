"""The families whose experts are said to be stacked really are, in the transformers at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ollm_widgets.models.expert_families import STACKED_EXPERTS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LAYERS = 4
# Families whose own defaults make no mixture of experts.
MIXTURES: dict[str, dict[str, object]] = {
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    },
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2, "head_dim": 8},
    "lfm2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention"] * 2,
    },
    "gemma4_text": {
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
    },
}
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# Its experts are those of gemma4_text; the rest of it has no small default.
SKIPPED = {"gemma4"}


@pytest.mark.parametrize("family", sorted(STACKED_EXPERTS - SKIPPED))
def test_every_expert_of_the_family_is_in_a_group(family: str) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    from ollm_widgets.weights.model.structure import decoder_structure

    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    images = family in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    factory: Any = AutoModelForImageTextToText if images else AutoModelForCausalLM
    build: Callable[..., torch.nn.Module] = factory.from_config
    with torch.device("meta"):
        model = build(small_config(family))
    structure = decoder_structure(model)
    assert any(structure.expert_groups)
    for layer, group in zip(structure.layers, structure.expert_groups, strict=True):
        named = {name for name, _ in layer.named_parameters() if ".experts." in f".{name}"}
        in_group = {f"{group.path}.{name}" for name in group.parameters} if group else set()
        assert named == in_group


def small_config(family: str) -> PretrainedConfig:
    """The family's defaults with a few layers, or a small mixture where they make none."""
    from transformers import AutoConfig

    if family in MIXTURES:
        config: PretrainedConfig = AutoConfig.for_model(family, **SMALL, **MIXTURES[family])
        return config
    config = AutoConfig.for_model(family)
    text = config.get_text_config(decoder=True)
    for name, value in vars(text).items():
        if isinstance(value, list | str) and len(value) == text.num_hidden_layers:
            setattr(text, name, value[:LAYERS])
    text.num_hidden_layers = LAYERS
    return config
