"""The models that are measured, with an end of text that comes exactly as often as it is told to.

Axis legend: B rows, L tokens, H width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from agents.policies.seeding import seeded

PROMPT = 16  # tokens of every prompt


@dataclass(frozen=True)
class Shape:
    """The size of a decoder: tied input and output embeddings, an MLP four times as wide, GPT-2's if not said otherwise."""

    name: str
    layers: int
    width: int
    heads: int
    vocab_size: int
    positions: int = 128
    neox: bool = False  # GPT-NeoX: rotary positions, parallel branches, an output layer of its own

    @property
    def layer_params(self) -> int:
        """Return the weights of the layers: attention 4 H^2, MLP 8 H^2 each."""
        return 12 * self.layers * self.width**2

    @property
    def head_params(self) -> int:
        """Return the weights of the output layer."""
        return self.vocab_size * self.width


TINY = Shape("tiny", layers=2, width=128, heads=4, vocab_size=512)
MID = Shape("mid", layers=4, width=256, heads=4, vocab_size=8192)
SMALL = Shape("small", layers=12, width=768, heads=12, vocab_size=50_257)
LONG = replace(SMALL, name="small, 512 positions", positions=512)
NEOX = replace(TINY, name="tiny GPT-NeoX", neox=True)


def build(shape: Shape, activation: str, hazard: float = 0.0, seed: int = 0) -> nn.Module:
    """Return an untrained model whose every step ends the text with probability `hazard`; the last id is EOS.

    The final norm's bias is set to ones, and EOS's row of the output layer to the same number everywhere: what the norm returns
    has mean 0, so EOS's logit is that number times H at every position, and can be set against the others' logsumexp.
    """
    with seeded(seed):
        model = _neox(shape, activation) if shape.neox else _gpt2(shape, activation)
    model.eval()
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        head: nn.Linear = model.get_output_embeddings()  # type: ignore[operator]
        _final_norm(model).bias.fill_(1.0)
        head.weight[-1] = -100.0 / shape.width
        if hazard:
            ids = torch.from_numpy(generator.integers(shape.vocab_size - 1, size=(8, 2 * PROMPT)))
            others = model(ids).logits.float().logsumexp(-1).mean()
            head.weight[-1] = (others + math.log(hazard / (1 - hazard))) / shape.width
    return model


def _gpt2(shape: Shape, activation: str) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": shape.layers, "n_embd": shape.width, "n_head": shape.heads, "n_positions": shape.positions}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)  # trainers that leave it on would do more work
    eos = shape.vocab_size - 1
    config = GPT2Config(vocab_size=shape.vocab_size, **sizes, **dropout, activation_function=activation, bos_token_id=eos, eos_token_id=eos)
    model: nn.Module = GPT2LMHeadModel(config)
    return model


def _neox(shape: Shape, activation: str) -> nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {"num_hidden_layers": shape.layers, "hidden_size": shape.width, "num_attention_heads": shape.heads, "intermediate_size": 4 * shape.width}
    limits, eos = {"vocab_size": shape.vocab_size, "max_position_embeddings": shape.positions}, shape.vocab_size - 1
    model: nn.Module = GPTNeoXForCausalLM(GPTNeoXConfig(**limits, **sizes, hidden_act=activation, bos_token_id=eos, eos_token_id=eos))
    return model


def _final_norm(model: nn.Module) -> nn.LayerNorm:
    norm = model.gpt_neox.final_layer_norm if hasattr(model, "gpt_neox") else model.transformer.ln_f  # type: ignore[union-attr]
    assert isinstance(norm, nn.LayerNorm)
    return norm


def prompt_ids(shape: Shape, num: int, seed: int = 0) -> np.ndarray:
    """Return random prompts [num, PROMPT] without EOS, int64."""
    return np.random.default_rng(seed).integers(shape.vocab_size - 1, size=(num, PROMPT))
