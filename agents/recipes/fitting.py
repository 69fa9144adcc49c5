"""A trained policy as a folder that fits into plain `transformers`: weights, tokenizer, and how to generate.

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

`model.generate` then writes what the policy writes greedily: EOS and the budget end a text, ids beyond the vocabulary are never written.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from textgym import tokenizers
from textgym.task import Tokenizer
from textgym.tokenizers import ByteTokenizer, CharTokenizer, TransformersTokenizer, WordTokenizer

from ..policies import CausalLMPolicy
from .material import Material


def fit(policy: CausalLMPolicy, material: Material, folder: Path) -> None:
    """Write policy and tokenizer into an existing folder, for us and for plain transformers."""
    policy.save(folder)
    tokenizers.save(material.tokenizer, folder)
    theirs = _for_transformers(material.tokenizer)
    theirs.save_pretrained(str(folder))
    _generation(policy, material, theirs.pad_token_id).save_pretrained(str(folder))


def _for_transformers(tokenizer: Tokenizer) -> Any:
    """Return the tokenizer as transformers knows it, with pads on the left, where `generate` needs them."""
    if isinstance(tokenizer, TransformersTokenizer):
        fitted = copy.deepcopy(tokenizer.tokenizer)
    elif isinstance(tokenizer, WordTokenizer | CharTokenizer | ByteTokenizer):
        fitted = tokenizers.to_transformers(tokenizer)
    else:
        raise TypeError(f"{type(tokenizer).__name__} cannot be saved: give the job a tokenizer of textgym.tokenizers.")
    if fitted.pad_token is None:
        fitted.pad_token = fitted.eos_token  # behind the attention mask nobody reads it
    told: dict[str, Any] = {"padding_side": "left", "model_input_names": ["input_ids", "attention_mask"]}  # GPT-2 would add token_type_ids to its embeddings
    for name, value in told.items():
        setattr(fitted, name, value)
    fitted.init_kwargs |= told  # which are what is saved
    return fitted


def _generation(policy: CausalLMPolicy, material: Material, pad_id: int) -> Any:
    from transformers import GenerationConfig

    rows = policy.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    return GenerationConfig(
        eos_token_id=material.tokenizer.eos_id,
        pad_token_id=pad_id,
        max_new_tokens=material.max_new_tokens,
        do_sample=False,
        suppress_tokens=list(range(material.tokenizer.vocab_size, rows)) or None,  # embedded, but no token of the tokenizer
    )
