"""Supervised training: next tokens before a policy is rewarded, and demonstrations to repeat."""

from .cloning import CloningConfig, clone, imitation
from .demonstrations import Demonstrations, Scripted, demonstrations_of, split_episodes
from .sequences import Sequences, encode_pairs, pad_pairs, pad_sequences
from .sft import Config, Judged, batch_loss, judge, next_token_nats, train

__all__ = [
    "CloningConfig",
    "Config",
    "Demonstrations",
    "Judged",
    "Scripted",
    "Sequences",
    "batch_loss",
    "clone",
    "demonstrations_of",
    "encode_pairs",
    "imitation",
    "judge",
    "next_token_nats",
    "pad_pairs",
    "pad_sequences",
    "split_episodes",
    "train",
]
