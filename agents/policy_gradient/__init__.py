"""Policy gradient: REINFORCE with any estimator of advantages."""

from .policy_gradient import Config, train

__all__ = ["Config", "train"]
