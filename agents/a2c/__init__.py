"""A2C: synchronous advantage actor-critic."""

from .a2c import Config, train

__all__ = ["Config", "train"]
