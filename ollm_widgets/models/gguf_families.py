"""The GGUF architectures that transformers turns into causal language models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GGUFFamily:
    """Names of a GGUF architecture in transformers."""

    model_type: str
    architecture: str


# By ``general.architecture``; transformers lists them in integrations/ggml.py.
GGUF_FAMILIES: dict[str, GGUFFamily] = {
    "llama": GGUFFamily("llama", "LlamaForCausalLM"),
    "mistral": GGUFFamily("mistral", "MistralForCausalLM"),
    "qwen2": GGUFFamily("qwen2", "Qwen2ForCausalLM"),
    "qwen2moe": GGUFFamily("qwen2_moe", "Qwen2MoeForCausalLM"),
    "qwen3": GGUFFamily("qwen3", "Qwen3ForCausalLM"),
    "qwen3moe": GGUFFamily("qwen3_moe", "Qwen3MoeForCausalLM"),
    "phi3": GGUFFamily("phi3", "Phi3ForCausalLM"),
    "gemma2": GGUFFamily("gemma2", "Gemma2ForCausalLM"),
    "gemma3": GGUFFamily("gemma3_text", "Gemma3ForCausalLM"),
    "falcon": GGUFFamily("falcon", "FalconForCausalLM"),
    "gpt2": GGUFFamily("gpt2", "GPT2LMHeadModel"),
    "stablelm": GGUFFamily("stablelm", "StableLmForCausalLM"),
    "starcoder2": GGUFFamily("starcoder2", "Starcoder2ForCausalLM"),
    "nemotron": GGUFFamily("nemotron", "NemotronForCausalLM"),
}
