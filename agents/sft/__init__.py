"""Supervised training: next tokens before a policy is rewarded, and demonstrations to repeat."""

from .cloning import CloningConfig, Demonstrations, clone
from .sft import Config, Sequences, next_token_nats, pad_sequences, train

__all__ = ["CloningConfig", "Config", "Demonstrations", "Sequences", "clone", "next_token_nats", "pad_sequences", "train"]
