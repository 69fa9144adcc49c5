"""Learners for token-level reinforcement learning, and for any other Gymnasium environment.

`agents` is also the import name of another well-known package; inside this one all imports are relative.
"""
