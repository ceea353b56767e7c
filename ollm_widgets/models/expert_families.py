"""Mixtures of experts of which single experts can be moved: those that transformers stacks."""

from __future__ import annotations

# Model types whose layers hold all experts in one module of stacked parameters, in every supported
# version of transformers, whatever their checkpoints look like (``use_experts_implementation``
# marks those modules in its source). Of a type that is not here, layers move whole.
STACKED_EXPERTS = frozenset((
    "afmoe", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_v2",
    "deepseek_v3", "deepseek_v32", "deepseek_v4", "dots1", "dots3_note", "dots3_note_text",
    "ernie4_5_moe", "exaone_moe", "flex_olmo", "flint", "gemma4", "gemma4_text", "glm4_moe",
    "glm4_moe_lite", "glm4v_moe", "glm5_next", "glm_moe_dsa", "gpt_oss", "granitemoe",
    "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "hunyuan_v1_moe", "hy_v3", "hy_v4",
    "inkling2", "inkling2_text", "inkling_mm_model", "inkling_text", "jamba", "kimi_k25",
    "kimi_linear", "kolibri1", "laguna", "lfm2_moe", "mellum", "mimo_v2_flash", "minimax",
    "minimax_m2", "minimax_m3_vl", "minimax_m3_vl_text", "mistral4", "mistral_large4", "mixtral",
    "nemotron_h", "nemotron_h_omni", "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe",
    "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen3_omni_moe_thinker", "qwen3_vl_moe",
    "solar_open", "unlimited_ocr", "zaya"
))  # fmt: skip
