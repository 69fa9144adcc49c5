"""The wrappers of one environment.

Axis legend: L columns, V vocabulary (V itself is the pad id), K tokens, H features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from ..core import State
from . import views
from .choosing import TopK
from .reading import Features, Reference, spec_argument
from .views import View, rows_of

AnySingle = gym.Env[Any, Any]


class _Viewed(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """An environment seen through a view."""

    def __init__(self, env: AnySingle, view: View) -> None:
        super().__init__(env)
        self._view = view
        self.observation_space = view.space

    def observation(self, observation: Any) -> Any:
        """Return what is seen of an observation."""
        return rows_of(self._view(np.asarray(observation)[None]))[0]


class DictObservation(_Viewed):
    """Observe a dict: `tokens` int64 [L], `length` (how many of them are no pads) and `mask` int8 [L], which is 0 at pads."""

    def __init__(self, env: AnySingle) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env, views.TokensLengthMask(env))


class OneHotObservation(_Viewed):
    """Observe one flag an id, uint8 [L, V], and none at pads; raises `ValueError` beyond 2**24 flags a row."""

    def __init__(self, env: AnySingle) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env, views.OneHot(env))


class LastTokens(_Viewed):
    """Observe the last k tokens of prompt and continuation, int64 [K], pads (V) on their left; the budget left can no longer be seen."""

    def __init__(self, env: AnySingle, k: int) -> None:
        RecordConstructorArgs.__init__(self, k=k)
        super().__init__(env, views.Tail(env, k))


class FloatObservation(_Viewed):
    """Observe float32, as RLlib and skrl want it: the same numbers, so that `.long()` gives ids back, or `scaled` into [0, 1] by the bounds."""

    def __init__(self, env: AnySingle, scaled: bool = False) -> None:
        RecordConstructorArgs.__init__(self, scaled=scaled)
        super().__init__(env, views.Floats(env, scaled))


class TextObservation(_Viewed):
    """Observe prompt and continuation decoded together, as one str without EOS."""

    def __init__(self, env: AnySingle) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env, views.Texts(env))


class HiddenState(_Viewed):
    """Observe the features of a local language model at the last token, float32 [H] (the observation of TextRL).

    `model` is a folder, a decoder of transformers (copied), or a `LanguageModel` (shared: with other environments, and with whoever refreshes
    it). Only with a folder is the spec JSON; each environment then loads a model of its own. Its output rows must be as many as the
    tokenizer's ids: a model with spare rows comes as `LanguageModel(..., vocab_size=...)`.
    """

    def __init__(self, env: AnySingle, model: str | Path | Features | Any) -> None:
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, model=spec_argument(model))
        super().__init__(env, views.Hidden(env, model))


class TopKActions(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Choose among the k tokens that a reference holds best: action i is the i-th best after the present prefix.

    `reference` is a folder, a decoder of transformers, or a `LanguageModel`, as in `HiddenState`. `info["top_ids"]` int64 [K] is the table of the next step;
    `action_mask`, where the task has one, becomes the mask [K] of those tokens. `keep_eos` puts EOS into the last place wherever it is
    not among the k: without it an agent can only stop where the reference would. What `set_state` of the unwrapped environment does
    passes unseen: call this wrapper's.
    """

    def __init__(self, env: AnySingle, reference: str | Path | Reference | Any, k: int, keep_eos: bool = False) -> None:
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, reference=spec_argument(reference), k=k, keep_eos=keep_eos)
        super().__init__(env)
        self._choice = TopK(env, reference, k, keep_eos)
        self._ids = self._choice.nothing  # [K] what the next action chooses from
        self._over = True
        self.action_space = Discrete(self._choice.k)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, and tell its first table."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._told(observation, info, False)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Write the token that `action` stands for."""
        token = self._choice.chosen(self._ids[None], np.asarray(action)[None])[0]
        observation, reward, terminated, truncated, info = self.env.step(token)
        return observation, reward, terminated, truncated, self._told(observation, info, bool(terminated or truncated))

    def _told(self, observation: Any, info: dict[str, Any], over: bool) -> dict[str, Any]:
        self._ids = self._choice.nothing if over else self._choice.ids(np.asarray(observation)[None])[0]
        self._over = over
        masks = {"action_mask": self._of_table(info["action_mask"])} if "action_mask" in info else {}
        return {**info, "top_ids": self._ids.copy(), **masks}

    def _of_table(self, mask: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self._choice.masks(mask[None], self._ids[None], np.array([self._over]))[0]
        return found

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which of the k tokens are allowed now, bool [K] (constrained tasks only)."""
        return self._of_table(self.env.get_wrapper_attr("action_masks")())

    def get_state(self) -> State:
        """Return the state below, and the table that the next action chooses from."""
        return {"env": self.env.get_wrapper_attr("get_state")(), "top_ids": self._ids.copy(), "over": self._over}

    def set_state(self, state: State) -> None:
        """Continue exactly where `get_state` stood."""
        self.env.get_wrapper_attr("set_state")(state["env"])
        self._ids, self._over = np.array(state["top_ids"], dtype=np.int64), bool(state["over"])
