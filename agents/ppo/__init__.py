"""Proximal policy optimisation (Schulman et al. 2017)."""

from .ppo import Config, train

__all__ = ["Config", "train"]
