"""Random play of a decoder beside the library's full forward: what both say must agree."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

NUM_SLOTS, WIDTH, VOCABULARY = 7, 20, 50


def read(model: Any, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and final hidden states at the ends of right-padded tokens, by one uncached forward."""
    hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[torch.arange(len(tokens)), lengths - 1]
    return model.get_output_embeddings()(hidden), hidden


class Play:
    """Slots with tokens in them; every move is made in the decoder and in plain tokens, and compared."""

    def __init__(self, model: Any, decoder: Any, seed: int = 0) -> None:
        self.model, self.decoder, self.rng, self.worst = model, decoder, np.random.default_rng(seed), 0.0
        self.tokens, self.lengths = torch.zeros(NUM_SLOTS, WIDTH, dtype=torch.long), torch.zeros(NUM_SLOTS, dtype=torch.long)

    @torch.no_grad()
    def extend(self, rows: list[int], starts: list[int], new: list[int]) -> None:
        """Put random tokens behind the first `starts` of each row; pads are random too."""
        slots, first, counts = (torch.tensor(numbers) for numbers in (rows, starts, new))
        ids = torch.from_numpy(self.rng.integers(0, VOCABULARY, (len(rows), max(new))))
        for i, row in enumerate(rows):
            self.tokens[row, starts[i] : starts[i] + new[i]] = ids[i, : new[i]]
        self.lengths[slots] = first + counts
        all_rows, all_new = len(rows) == NUM_SLOTS and self.rng.random() < 0.5, len(set(new)) == 1 and self.rng.random() < 0.5
        logits, hidden = self.decoder.extend(ids, first, None if all_new else counts, None if all_rows else slots)
        expected = read(self.model, self.tokens[slots], self.lengths[slots])
        for ours, theirs in zip((logits, hidden), expected, strict=True):
            assert ours.shape == theirs.shape
            self.worst = max(self.worst, float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)))

    def fork(self, source: list[int], target: list[int]) -> None:
        self.decoder.copy_slots(torch.tensor(source), torch.tensor(target))
        self.tokens[target], self.lengths[target] = self.tokens[source], self.lengths[source]

    def some_rows(self) -> list[int]:
        return sorted(self.rng.choice(NUM_SLOTS, self.rng.integers(1, NUM_SLOTS + 1), replace=False).tolist())

    def random_move(self) -> None:
        """One token for some rows, an answer of a few, a new beginning, a step back, or a fork."""
        rows, kind = self.some_rows(), self.rng.choice(["token", "token", "token", "answer", "anew", "back", "fork"])
        if kind == "fork":
            self.fork([int(self.rng.integers(NUM_SLOTS))], [int(self.rng.integers(NUM_SLOTS))])
            return
        starts = [int(self.lengths[row]) for row in rows]
        starts = [0 if kind == "anew" else int(self.rng.integers(0, start + 1)) if kind == "back" else start for start in starts]
        most = 1 if kind == "token" else 5
        starts = [start if start + most <= WIDTH else 0 for start in starts]
        self.extend(rows, starts, [int(self.rng.integers(1, most + 1)) for _ in rows])


def worst_of_play(model: Any, decoder: Any, moves: int = 60, seed: int = 0) -> float:
    """The largest relative difference over a prefill of uneven prompts, uneven steps, and `moves` random moves."""
    play, every = Play(model, decoder, seed), list(range(NUM_SLOTS))
    prompts = [3, 7, 1, 5, 2, 7, 4]
    play.extend(every, [0] * NUM_SLOTS, prompts)
    for step in range(3):
        play.extend(every, [length + step for length in prompts], [1] * NUM_SLOTS)
    play.extend(every, [0] * NUM_SLOTS, [6] * NUM_SLOTS)
    for step in range(3):
        play.extend(every, [6 + step] * NUM_SLOTS, [1] * NUM_SLOTS)
    play.extend([0, 1, 3, 4, 5], [9, 9, 9, 9, 9], [1] * 5)  # dense among the slots
    play.extend([0, 6], [10, 9], [1, 1])  # sparse
    play.extend([2, 3], [9, 10], [1, 1])  # side by side
    for _ in range(moves):
        play.random_move()
    return play.worst
