"""The one place where torch's global generator is used: weight initialisation, walled in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise weights reproducibly inside the `with`; the global generator is left as it was found."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
