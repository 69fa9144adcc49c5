"""Finite automata over tokens: a language that cannot be left, and that is always finished.

Axis legend: B rows, P prompt columns, S states, V vocabulary, R pairs of a state and a budget that allow different tokens.
"""

from __future__ import annotations

import numpy as np

from ..allowed import Allowed
from ..core import BoolArray, IntArray
from ..task import Prefixes, Tokenizer
from .lift import Table32
from .trie import DEAD
from .ways import NEVER, Early, Ways


class AutomatonRules:
    """Follows an automaton that begins in state 0; memory is the state and the tokens left, int64 [B, 2].

    A token is allowed if a text that is accepted can still be written behind it: with `finish`, within the budget and EOS included;
    where forbidden tokens have used up the budget for that (or without `finish`), at all. EOS is allowed in accepting states.
    A forbidden token leaves the state where it was. With `reads_prompt` the prompt is walked first.
    """

    def __init__(
        self,
        next_state: Table32,
        accepting: BoolArray,
        tokenizer: Tokenizer,
        max_new_tokens: int,
        finish: bool = True,
        reads_prompt: bool = False,
    ) -> None:
        self.next_state, self.accepting, self.tokenizer = next_state, accepting, tokenizer
        self.max_new_tokens, self.finish, self.reads_prompt = max_new_tokens, finish, reads_prompt
        self._ways = Ways(next_state)
        self.need = self._ways.needed(accepting)  # [S] tokens to the end, EOS included
        furthest = self._ways.best(np.where(self.need < NEVER, self.need, 0)) + 1
        self._plenty = np.maximum(furthest, self.need)  # [S] with so many left, more of them allow no more tokens
        kinds = np.where(self.need < NEVER, self._plenty - self.need + 1, 1)
        self._first = np.cumsum(kinds) - kinds  # [S] the place of each state's smallest budget among R
        self._row = np.full(int(kinds.sum()), DEAD, dtype=np.int64)  # [R] the mask of each, -1 before it is asked for
        self._masks = np.zeros((4, next_state.shape[1]), dtype=np.bool_)  # grows; row m never changes once it is built
        self._built, self._least = 0, next_state.shape[1]
        self._early = Early.none()
        self._early_row = np.zeros((0, 0), dtype=np.int32)  # [N + 1, S] the masks while EOS is too early, -1 before they are asked for
        self._same: dict[bytes, int] = {}  # those masks by their content: most are alike

    def at_least(self, num_tokens: int, name: str) -> None:
        """Ask for so many tokens before EOS, from now on; raises `ValueError` if no text from the beginning on has them and fits the budget."""
        most_left = self.max_new_tokens - num_tokens
        self._early = Early.of(self._ways, self.need <= (most_left if self.finish else NEVER - 1), self.need < NEVER, num_tokens, most_left)
        self._early_row = np.full(self._early.possible.shape, DEAD, dtype=np.int32)
        if not self.reads_prompt and not self._early.possible[-1, 0]:
            raise ValueError(
                f"{name} accepts no text of at least {num_tokens} tokens within max_new_tokens={self.max_new_tokens}, EOS included: "
                "lower MinLength's n, raise the budget, or let the constraint accept longer texts."
            )

    def begin(self, prefixes: Prefixes, /) -> IntArray:
        """Return the state before the first token and the budget; raises `ValueError` showing a prompt that no text can follow."""
        states = np.zeros(len(prefixes.ends), dtype=np.int64)
        if self.reads_prompt:
            states = self._walked(prefixes)
        short = self.need[states] > (prefixes.left if self.finish else NEVER - 1)
        if short.any():
            row = int(np.flatnonzero(short)[0])
            raise ValueError(
                f"After the prompt {self._prompt(prefixes, row)!r} the automaton accepts no text of {int(prefixes.left[row])} tokens or fewer "
                f"(EOS included); it needs {_number(int(self.need[states[row]]))}. Raise max_new_tokens, or leave such prompts out."
            )
        self._check_length(states, prefixes)
        return np.stack([states, prefixes.left], axis=1)

    def _check_length(self, states: IntArray, prefixes: Prefixes) -> None:
        early = prefixes.left > self._early.most_left
        wanted = (prefixes.left - self._early.most_left)[early]
        short = ~self._early.possible[wanted, states[early]]
        if short.any():
            row, least = int(np.flatnonzero(early)[short][0]), int(wanted[short][0])
            raise ValueError(
                f"After the prompt {self._prompt(prefixes, row)!r} the automaton accepts no text of at least {least} tokens within "
                f"{int(prefixes.left[row])}, EOS included. Lower MinLength's n, raise max_new_tokens, or leave such prompts out."
            )

    def _walked(self, prefixes: Prefixes) -> IntArray:
        states = np.zeros(len(prefixes.ends), dtype=np.int64)
        for column in prefixes.tokens[:, : prefixes.prompt_columns].T:
            real = column < self.next_state.shape[1]
            states[real] = self.next_state[states[real], column[real]]
            if (states == DEAD).any():
                prompt = self._prompt(prefixes, int(np.flatnonzero(states == DEAD)[0]))
                raise ValueError(f"The prompt {prompt!r} has left the grammar before the agent writes a word; leave it out, or choose another grammar.")
        return states

    def _prompt(self, prefixes: Prefixes, row: int) -> str:
        tokens = prefixes.tokens[row, : prefixes.prompt_columns].tolist()
        return self.tokenizer.decode([token for token in tokens if token != self.tokenizer.vocab_size])

    def follow(self, memory: IntArray, tokens: IntArray, /) -> IntArray:
        """Return the states behind `tokens`, and a budget of one less."""
        states, left = memory.T
        which = self._which(states, left)  # before the masks are read: it may add some
        legal = self._masks[which, tokens] & (tokens != self.tokenizer.eos_id)
        return np.stack([np.where(legal, self.next_state[states, tokens], states), left - 1], axis=1)

    def allowed(self, memory: IntArray, prefixes: Prefixes, /) -> Allowed:
        """Return the masks of states and budgets: one that rows share for each pair that was met so far."""
        which = self._which(*memory.T)  # before the masks are read: it may add some
        return Allowed(mask=self._masks, which=which, least=self._least)

    def _which(self, states: IntArray, left: IntArray) -> IntArray:
        early = left > self._early.most_left
        if not early.any():
            return self._late(states, left)
        which = np.empty(len(states), dtype=np.int64)
        which[~early] = self._late(states[~early], left[~early])
        which[early] = self._too_early(states[early], left[early] - self._early.most_left)
        return which

    def _late(self, states: IntArray, left: IntArray) -> IntArray:
        plenty, need = self._plenty[states], self.need[states]
        budget = np.where((left < need) | (left > plenty), plenty, left) if self.finish else plenty
        places = self._first[states] + np.where(need < NEVER, budget - need, 0)
        which = self._row[places]
        for i in np.flatnonzero(which == DEAD).tolist():
            if self._row[places[i]] == DEAD:
                self._row[places[i]] = self._build(int(states[i]), int(budget[i]))
            which[i] = self._row[places[i]]
        return which

    def _too_early(self, states: IntArray, wanted: IntArray) -> IntArray:
        """Return the masks where `wanted` tokens must be written before EOS may come; a wasted budget leaves what needs a longer one."""
        which = self._early_row[wanted, states].astype(np.int64)
        for i in np.flatnonzero(which == DEAD).tolist():
            state, num = int(states[i]), int(wanted[i])
            rows = self._early.possible if self._early.possible[num, state] else self._early.at_all
            mask = np.append(rows[num - 1], False)[self.next_state[state]]  # -1, the dead state, is the last
            which[i] = self._early_row[num, state] = self._shared(mask)
        return which

    def _shared(self, mask: BoolArray) -> int:
        key = np.packbits(mask).tobytes()
        if key not in self._same:
            self._same[key] = self._keep(mask)
        return self._same[key]

    def _build(self, state: int, budget: int) -> int:
        ahead = np.append(self.need, NEVER)[self.next_state[state]]  # -1, the dead state, is the last
        mask = ahead < min(budget, NEVER)
        mask[self.tokenizer.eos_id] = self.accepting[state]
        return self._keep(mask)

    def _keep(self, mask: BoolArray) -> int:
        if self._built == len(self._masks):
            self._masks = np.concatenate([self._masks, np.zeros_like(self._masks)])
        self._masks[self._built] = mask
        self._least = min(self._least, int(mask.sum()))
        self._built += 1
        return self._built - 1


def _number(tokens: int) -> str:
    return "more than any budget" if tokens == NEVER else str(tokens)
