"""Is this model exactly what its class and configuration say? Only then may its formulas be computed without its modules."""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import nn

# The library's class -> what computes it here.
LIBRARY = {"GPT2LMHeadModel": "gpt2", "LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "llama", "Qwen3ForCausalLM": "llama", "MistralForCausalLM": "llama"}
GELUS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}
UNUSUAL = ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention")


def why_not_fast(model: nn.Module, width: int) -> str | None:
    """Return why a model must be computed by the library's own forward over `width` positions; None if it need not."""
    kind = type(model)
    if not kind.__module__.startswith("transformers.models.") or kind.__name__ not in LIBRARY:
        return f"{kind.__name__} is not known"
    return _config(model.config, LIBRARY[kind.__name__], width) or _modules(model) or _hooks(model) or _weights(model)


def _config(config: Any, architecture: str, width: int) -> str | None:
    if config._attn_implementation not in ("eager", "sdpa"):
        return f"attention {config._attn_implementation!r}"
    if architecture == "gpt2":
        unusual = [name for name in UNUSUAL if getattr(config, name)]
        known = config.activation_function in (*GELUS, "relu")
        return f"{unusual[0]} is on" if unusual else None if known else f"activation {config.activation_function!r}"
    if (window := short_window(config, width)) is not None:
        return f"it attends to {window} tokens at a time"
    if config.rope_parameters.get("rope_type", "default") != "default":
        return f"rotary positions of the kind {config.rope_parameters['rope_type']!r}"
    return None if config.hidden_act == "silu" else f"activation {config.hidden_act!r}"


def short_window(config: Any, width: int) -> int | None:
    """Return how many tokens a model attends to at a time where that is less than `width`."""
    windows = (getattr(config, name, None) for name in ("sliding_window", "window_size", "attention_chunk_size"))
    return min((window for window in windows if isinstance(window, int) and 0 < window < width), default=None)


def _modules(model: nn.Module) -> str | None:
    """Compare with what the class itself builds: adapters, quantised layers and parametrisations have other types."""
    theirs, shapes = _built(type(model), model.config.to_json_string(use_diff=False))  # type: ignore[arg-type, operator, union-attr]
    ours = {name: type(module) for name, module in model.named_modules()}
    if other := sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) is not ours.get(name)):
        return f"{other[0]} is not the library's"
    present = {name: weight.shape for name, weight in model.named_parameters(remove_duplicate=False)}
    return None if shapes == present else "its weights have other names or shapes than its configuration says"


@functools.lru_cache(maxsize=8)
def _built(kind: Any, config: str) -> tuple[dict[str, type], dict[str, torch.Size]]:
    """Return the types of all modules and the shapes of all weights that a class builds for a configuration; no memory is taken for them."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = kind(kind.config_class.from_dict(json.loads(config)))
    types = {name: type(module) for name, module in model.named_modules()}
    return types, {name: weight.shape for name, weight in model.named_parameters(remove_duplicate=False)}


def _hooks(model: nn.Module) -> str | None:
    head = model.get_output_embeddings()  # type: ignore[operator]
    for name, module in model.named_modules():
        hooks = () if module is head else (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        # The library's own recorders stay behind once hidden states were asked for; they change nothing.
        if "forward" in vars(module) or any(hook.__module__ != "transformers.utils.output_capturing" for hook in hooks):
            return f"{name or 'the model'} has a hook"
    return "it is in training mode" if model.training else None


def _weights(model: nn.Module) -> str | None:
    weights = list(model.parameters())
    if len({(weight.dtype, weight.device) for weight in weights}) > 1:
        return "its weights are of several types or on several devices"
    return None if all(type(weight) is nn.Parameter and weight.is_floating_point() for weight in weights) else "its weights are of an unusual kind"
