"""The core of every text task: prefixes that grow token by token until EOS, the budget or the responder ends them.

Axis legend: N rows, B rows of one call, P prompt columns, G columns after them, L = P + G, M prompts, C tokens of a chunk,
V vocabulary (V itself is the pad id).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from numpy.typing import NDArray

from ..core import ALL_ROWS, BoolArray, FloatArray, IntArray, Rows, Step, Streams, refuse_unknown
from ..task import Completions, Prefixes, Task
from .answers import answers_of, draws_lots, hand_over_table
from .encoding import checked_ids, cumulative_weights, encoded
from .legality import Legality
from .scoring import scores_of


class TextCore:
    """N prefixes that grow by one token a step, or by a chunk of them.

    An observation is Box(0, V, (L,), int64): the prompt right-aligned in columns [0, P), what follows it from column P on,
    and the pad id V everywhere else. So prompt, continuation and (where nobody answers) the budget left can be read from it alone.
    The reward is the scorer's at the end of the text and 0 before; a dense task pays what the score rises by,
    r_t = gamma phi(s_{t+1}) - phi(s_t), and at the end score - phi(s_t), so that the discounted return is the sparse one less phi(s_0)
    (Ng, Harada & Russell 1999, "Policy invariance under reward transformations", with a potential of 0 behind the end).
    """

    render_modes: tuple[str, ...] = ("ansi", "human")

    def __init__(self, task: Task, num_rows: int) -> None:
        if min(task.max_new_tokens, task.max_prompt_tokens, task.chunk) < 1:
            sizes = f"{task.max_prompt_tokens}, {task.max_new_tokens} and {task.chunk}"
            raise ValueError(f"A text task needs max_prompt_tokens, max_new_tokens and chunk of at least 1, got {sizes}.")
        self.task, self.num_rows = task, num_rows
        self._pad, self._eos = checked_ids(task.tokenizer)
        self._prompts = encoded(task.prompts, task.tokenizer, task.max_prompt_tokens, task.cut_prompts)
        self._weights = cumulative_weights(task.prompt_weights, len(task.prompts))
        self._hand_over = hand_over_table(task)
        self._width = task.max_prompt_tokens + task.max_new_tokens + task.max_response_tokens
        self.observation_space = Box(0, self._pad, (self._width,), np.int64)
        self.action_space = Discrete(self._pad) if task.chunk == 1 else MultiDiscrete([self._pad] * task.chunk)
        self._lay_out(num_rows)
        rules = None if task.constraint is None else task.constraint.rules(task.tokenizer, task.max_prompt_tokens, task.max_new_tokens)
        self._legality = None if rules is None else Legality(rules, num_rows, self._pad, self._eos, task.max_prompt_tokens, self._width)
        self._ruled = rules is not None or self._hand_over is not None  # a token may be forbidden, or answered

    def _lay_out(self, num_rows: int) -> None:
        task = self.task
        self._all = np.arange(num_rows)
        self._tokens = np.full((num_rows, self._width), self._pad, dtype=np.int64)
        self._row = np.arange(num_rows) * self._width  # [N] where each row begins, in `_tokens` laid flat
        self._begin = self._row + task.max_prompt_tokens  # [N] where generation starts
        self._last = self._begin + task.max_new_tokens - 1  # [N] the place of the last token that the budget allows; answers push it on
        self._place = self._begin.copy()  # [N] where the next token goes
        self._ended = np.zeros(num_rows, dtype=np.bool_)  # [N] by EOS or by the responder
        self._index = np.zeros(num_rows, dtype=np.int64)  # [N] the prompt
        self._results: dict[str, FloatArray] = {}  # of the rows that ended last, in their order
        self._half: BoolArray | None = None  # [N] a step or start broke off half done here, since a scorer, responder or constraint raised
        self._potentials = np.zeros(num_rows) if task.dense else None  # [N] phi of the text so far
        self._dropped = np.zeros(num_rows, dtype=np.int64) if task.chunk > 1 else None  # [N] tokens of the last chunk that were not written
        self._forbidden = np.zeros(num_rows, dtype=np.int64) if task.constraint is not None else None  # [N] tokens written against the constraint
        answered = self._hand_over is not None
        self._agent = np.zeros(self._tokens.shape, dtype=np.bool_) if answered else None  # [N, L] the agent wrote it
        self._turns = np.zeros(num_rows, dtype=np.int64) if answered else None  # [N] answers so far

    # -- an episode ------------------------------------------------------------------------------------------------------

    def start(self, rows: IntArray, streams: Streams, options: Mapping[str, Any]) -> None:
        """Put a prompt on each row: a random one, or the one that `options["prompt"]` (an index, or [N] of them) names."""
        refuse_unknown(options, "prompt")
        index = self._drawn(rows, streams) if options.get("prompt") is None else self._chosen(options["prompt"])[rows]
        try:
            self._begin_texts(rows, index)
        except BaseException:
            self._break_off(rows)
            raise
        if self._half is not None:
            self._half[rows] = False

    def _begin_texts(self, rows: IntArray, index: IntArray) -> None:
        """Begin texts on `rows` with the prompts `index` [B]."""
        self._tokens[rows] = self._pad
        self._tokens[rows, : self.task.max_prompt_tokens] = self._prompts.tokens.take(index, axis=0)
        self._place[rows] = self._begin[rows]
        self._ended[rows] = False
        self._index[rows] = index
        if self._turns is not None and self._agent is not None:
            self._turns[rows], self._agent[rows] = 0, False
            self._last[rows] = self._begin[rows] + self.task.max_new_tokens - 1
        if self._dropped is not None:
            self._dropped[rows] = 0
        if self._potentials is not None:
            self._potentials[rows] = scores_of(self.task.scorer, self.completions(rows))["score"]
        if self._legality is not None and self._forbidden is not None:
            self._forbidden[rows] = 0
            self._refuse_dead_ends(rows, self._legality.begin(rows, self._prefixes(rows)))

    def _drawn(self, rows: IntArray, streams: Streams) -> IntArray:
        if self._weights is None:
            return streams.integers(rows, len(self._prompts.tokens))
        return np.searchsorted(self._weights, streams.uniform(rows), side="right")

    def _chosen(self, prompt: Any) -> IntArray:
        index = np.asarray(prompt)
        if index.dtype.kind not in "iu" or index.shape not in ((), (1,), (self.num_rows,)):
            raise ValueError(f'options["prompt"] must be one prompt index or {self.num_rows} of them, got {prompt!r}.')
        if index.size and not (index.min() >= 0 and index.max() < len(self._prompts.tokens)):
            raise ValueError(f'options["prompt"] must lie in [0, {len(self._prompts.tokens)}), the number of prompts, got {prompt!r}.')
        return np.broadcast_to(index.astype(np.int64), (self.num_rows,))

    def advance(self, rows: Rows, actions: NDArray[Any], streams: Streams) -> Step:
        """Append one token, or a chunk, to each row; score those that ended, as one batch."""
        actions = self._checked(actions)
        self._refuse_half_done(rows)
        rewards = np.zeros(len(actions))
        write = self._write_by_rule if self._ruled else self._write
        try:
            terminated = write(rows, actions, rewards, streams) if self._dropped is None else self._write_chunk(rows, actions, rewards, streams)
            if self._potentials is not None:
                self._pay_growth(rows, terminated, rewards)
            elif len(which := terminated.nonzero()[0]):
                self._results = self._judged(which if isinstance(rows, slice) else rows[which])
                rewards[which] += self._results["score"]
        except BaseException:  # Ctrl-C while a scorer waits, too
            self._break_off(rows)
            raise
        return Step(rewards, terminated, np.zeros(len(actions), dtype=np.bool_))

    def _break_off(self, rows: Rows) -> None:
        self._half = np.zeros(self.num_rows, dtype=np.bool_) if self._half is None else self._half
        self._half[rows] = True

    def _refuse_half_done(self, rows: Rows) -> None:
        """Raise `ResetNeeded` where texts were written and not scored: another token would stand behind an end, or in the next row."""
        if self._half is not None and self._half[rows].any():
            raise ResetNeeded("The last step or reset broke off half done, by the error that it raised: call reset() before you go on.")

    def _checked(self, actions: NDArray[Any]) -> IntArray:
        chunk = self.task.chunk
        if actions.shape[1:] != (() if chunk == 1 else (chunk,)):
            wanted = "one token id" if chunk == 1 else f"a chunk of {chunk} token ids"
            raise ValueError(f"An action is {wanted} a row; got an array of shape {actions.shape} for all rows together.")
        if actions.dtype != np.int64:
            if actions.dtype.kind not in "iu":
                raise ValueError(f"Actions are token ids (integers), got dtype {actions.dtype}.")
            actions = actions.astype(np.int64)
        if actions.view(np.uint64).max(initial=0) >= self._pad:  # a negative id reads as a huge one: one comparison for both sides
            wrong = actions[(actions < 0) | (actions >= self._pad)][0]
            raise ValueError(f"Action {wrong} is outside the action space {self.action_space}; token ids run from 0 to {self._pad - 1}.")
        return actions

    def _write(self, rows: Rows, tokens: IntArray, rewards: FloatArray, streams: Streams) -> BoolArray:
        """Append one token [B] to each row; return where that ends the text."""
        place = self._place[rows]
        self._tokens.reshape(-1)[place] = tokens  # one flat write is faster than a two-dimensional one
        ends = tokens == self._eos
        self._ended[rows] = ends
        over: BoolArray = ends | (place == self._last[rows])
        place += 1  # last: for a slice of rows, `place` is a view of `_place`
        self._place[rows] = place
        return over

    def _write_by_rule(self, rows: Rows, tokens: IntArray, rewards: FloatArray, streams: Streams) -> BoolArray:
        """Append one token [B] to each row as `_write` does; keep to the constraint, and let the responder answer."""
        legality, forbidden = self._legality, np.zeros(len(tokens), dtype=np.bool_)
        if legality is not None and self._forbidden is not None:
            forbidden = ~legality.permits(rows, tokens)
            rewards -= self.task.forbidden_penalty * forbidden
            self._forbidden[rows] += forbidden
            legality.follow(rows, tokens)
        if self._agent is not None:
            self._agent.reshape(-1)[self._place[rows]] = True
        over = self._write(rows, tokens, rewards, streams)
        if self.task.forbidden_ends:
            over |= forbidden
        if self._hand_over is not None:
            self._answer(rows, self._hand_over[tokens] & ~(forbidden & over), over, streams)
        if legality is not None:
            self._refuse_dead_ends(rows, legality.look(rows, self._prefixes(rows), ~over))
        return over

    def _answer(self, rows: Rows, waits: BoolArray, over: BoolArray, streams: Streams) -> None:
        """Append the responder's answers to the rows that wait for one; `over` [B] learns which dialogues that ends."""
        which = np.flatnonzero(waits)
        if not len(which) or self.task.responder is None or self._turns is None:
            return
        index = self._all[rows][which]
        used = self._last[index] - self._begin[index] - self.task.max_new_tokens + 1
        lots = streams.uniform(index) if draws_lots(self.task.responder) else np.zeros(len(index))
        answers, ends = answers_of(self.task.responder, self.completions(index), lots, self.task.max_response_tokens - used)
        for row, ids in zip(index.tolist(), answers, strict=True):
            place = int(self._place[row])
            self._tokens.reshape(-1)[place : place + len(ids)] = ids
            self._place[row] += len(ids)
            self._last[row] += len(ids)
        self._turns[index] += 1
        self._ended[index] |= ends
        over[which] |= ends

    def _write_chunk(self, rows: Rows, chunks: IntArray, rewards: FloatArray, streams: Streams) -> BoolArray:
        """Append the tokens of each chunk [B, C] one by one, until its text ends or is answered; what is left over is dropped, and counted."""
        assert self._dropped is not None
        write = self._write_by_rule if self._ruled else self._write
        index = self._all[rows]
        terminated = np.zeros(len(chunks), dtype=np.bool_)
        self._dropped[index] = chunks.shape[1]
        going_on = np.arange(len(chunks))
        for tokens in chunks.T:
            now, paid = index[going_on], np.zeros(len(going_on))
            self._dropped[now] -= 1
            stops = write(now, tokens[going_on], paid, streams)
            rewards[going_on] += paid
            terminated[going_on] = stops
            if self._hand_over is not None:
                stops = stops | self._hand_over[tokens[going_on]]
            going_on = going_on[~stops]
            if not len(going_on):
                break
        return terminated

    # -- what it is worth ------------------------------------------------------------------------------------------------

    def _judged(self, rows: IntArray) -> dict[str, FloatArray]:
        completions = self.completions(rows)
        results = scores_of(self.task.scorer, completions)
        if self.task.gold is not None:
            results["gold"] = scores_of(self.task.gold, completions)["score"]
        return results

    def _pay_growth(self, rows: Rows, terminated: BoolArray, rewards: FloatArray) -> None:
        assert self._potentials is not None
        index = self._all[rows]
        completions = self.completions(index)
        results = scores_of(self.task.scorer, completions)
        potentials, which = results["score"], np.flatnonzero(terminated)
        rewards += np.where(terminated, potentials, self.task.gamma * potentials) - self._potentials[index]
        self._potentials[index] = potentials
        if len(which):
            self._results = {name: values[which] for name, values in results.items()}
            if self.task.gold is not None:
                self._results["gold"] = scores_of(self.task.gold, self.completions(index[which]))["score"]

    def completions(self, rows: IntArray) -> Completions:
        """Return what stands on `rows`, as the scorer sees it."""
        both, width = self._tokens.take(rows, axis=0), self.task.max_prompt_tokens
        return Completions(
            tokens=both[:, width:],
            lengths=self._place[rows] - self._begin[rows],
            ended=self._ended[rows],
            prompt_tokens=both[:, :width],
            prompt_indices=self._index[rows],
            source=self.task.prompts,
            tokenizer=self.task.tokenizer,
            agent=None if self._agent is None else self._agent[rows, width:],
            hand_over=self._hand_over,
        )

    # -- what is allowed -------------------------------------------------------------------------------------------------

    def _prefixes(self, rows: Rows) -> Prefixes:
        place = self._place[rows]
        return Prefixes(self._tokens[rows], place - self._row[rows], self._last[rows] - place + 1, self.task.max_prompt_tokens)

    def _refuse_dead_ends(self, rows: Rows, stuck: BoolArray) -> None:
        if stuck.any():
            row = int(self._all[rows][stuck][0])
            raise ValueError(
                f"The constraint allows no token at all after {self.render(row, 'ansi')!r}: its parts contradict one another there, "
                "or it cannot be kept within the budget. Loosen it, or raise max_new_tokens."
            )

    def action_masks(self, after: IntArray | None = None) -> BoolArray:
        """Return which ids may come next, bool [N, V]; with `after` [N, j], which might come after those tokens of a chunk.

        Of a chunk as a whole no mask can speak, since what its second token may be hangs on its first: whoever samples it asks token by token.
        """
        if self._legality is None:
            raise TypeError("This text task has no constraint, so it has no action masks; give it one: constraint=...")
        return self._legality.masks() if after is None else self._legality.ahead(self._prefixes(ALL_ROWS), after)

    # -- what is told ----------------------------------------------------------------------------------------------------

    def observe(self, rows: Rows, copy: bool = True) -> IntArray:
        """Return the prefixes [B, L]."""
        if not isinstance(rows, slice):
            return self._tokens.take(rows, axis=0)
        return self._tokens[rows].copy() if copy else self._tokens[rows]

    def live_info(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Return the facts beside every observation that the task has.

        They are `action_mask` [B, V] int8 of a constraint (of a chunk's first token), `agent_mask` [B, L] of who spoke, and `dropped_tokens` [B].
        """
        info: dict[str, NDArray[Any]] = {}
        if self._legality is not None and self.task.info_mask:
            info["action_mask"] = self._legality.masks(rows).view(np.int8)
        if self._agent is not None:
            info["agent_mask"] = self._agent[rows].astype(np.int8)
        if self._dropped is not None:
            info["dropped_tokens"] = self._dropped[rows].copy()
        return info

    def end_info(self, rows: IntArray) -> dict[str, NDArray[Any]]:
        """Return `score`, the parts of a composed score, `gold`, `text`, and the counts `forbidden` and `turns`, where the task has them."""
        info: dict[str, NDArray[Any]] = dict(self._results)
        if self._forbidden is not None:
            info["forbidden"] = self._forbidden[rows]
        if self._turns is not None:
            info["turns"] = self._turns[rows]
        if self.task.info_text:
            info["text"] = np.array(self.completions(rows).texts, dtype=object)
        return info

    def texts(self, rows: Rows = ALL_ROWS) -> list[str]:
        """Return the continuations as they stand, decoded."""
        return self.completions(self._all[rows]).texts

    def render(self, row: int, mode: str) -> str:
        """Return prompt and continuation with a bar between them, answers in brackets, and what is used of the budget."""
        completions = self.completions(np.array([row]))
        prompt = self.task.tokenizer.decode(completions.prompt_tokens[0, self.task.max_prompt_tokens - self._prompts.lengths[self._index[row]] :].tolist())
        said = " ".join(turn.text if turn.by_agent else f"[{turn.text}]" for turn in completions.turns[0])
        left = int(self._last[row] - self._place[row]) + 1
        used = f"{self.task.max_new_tokens - left}/{self.task.max_new_tokens} tokens{', ended' if completions.ended[0] else ''}"
        return f"{prompt} | {said}  [{used}]"

    # -- its state as a value --------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return tokens [N, L], counts of what follows the prompt [N], ended [N], prompt indices [N], and what the powers of the task keep."""
        self._refuse_half_done(ALL_ROWS)
        state = {"tokens": self._tokens.copy(), "counts": self._place - self._begin, "ended": self._ended.copy(), "index": self._index.copy()}
        state |= {name: values.copy() for name, values in self._kept().items()}
        return state if self._legality is None else {**state, **self._legality.get_state()}

    def _kept(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that only some tasks have; those of turns say how far answers pushed the budget on, too."""
        kept: dict[str, NDArray[Any] | None] = {"potentials": self._potentials, "dropped": self._dropped, "forbidden": self._forbidden}
        if self._hand_over is not None:
            kept |= {"agent": self._agent, "turns": self._turns, "answered": self._last - self._begin - self.task.max_new_tokens + 1}
        return {name: values for name, values in kept.items() if values is not None}

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Become what `get_state` described."""
        wanted = {"tokens", "counts", "ended", "index", *self._kept(), *(() if self._legality is None else ("memory", "open"))}
        if set(state) != wanted:
            raise ValueError(f"This state holds {sorted(state)}, this environment {sorted(wanted)}: that of another task.")
        if np.shape(state["tokens"]) != self._tokens.shape:
            raise ValueError(
                f"This state holds tokens of shape {np.shape(state['tokens'])}, this environment {self._tokens.shape}: other rows or another task."
            )
        self._half = None
        self._tokens[:] = state["tokens"]
        self._place[:] = self._begin + state["counts"]
        self._ended[:] = state["ended"]
        self._index[:] = state["index"]
        for name, values in self._kept().items():
            values[:] = state[name]
        if self._hand_over is not None:
            self._last[:] = self._begin + self.task.max_new_tokens - 1 + state["answered"]
        if self._legality is not None:
            self._legality.set_state(state, self._prefixes(ALL_ROWS))

    def like(self, num_rows: int) -> TextCore:
        """Return an unstarted core of the same task with `num_rows` rows; prompts and tokenizer are shared."""
        return TextCore(self.task, num_rows)
