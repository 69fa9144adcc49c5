"""Supervised next-token training: what a policy knows before it is rewarded."""

from .sft import Config, Sequences, next_token_nats, pad_sequences, train

__all__ = ["Config", "Sequences", "next_token_nats", "pad_sequences", "train"]
