"""A text adventure of TextWorld (Côté et al. 2018, "TextWorld: a learning environment for text-based games") as a Gymnasium environment.

TextWorld writes and plays games offline; its own environments speak strings and an older interface. Here a text is seen as the set of its words,
hashed (Weinberger et al. 2009, "Feature hashing for large scale multitask learning"), and an action is one of all commands that the game may ever allow.

Axis legend: F hashed words, A commands.
"""

from __future__ import annotations

import importlib
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

WORDS = 256
STATE = ("description", "inventory")  # what tells nearly all; ("feedback",) is what a player reads, and must remember


def textworld() -> Any:
    """Return TextWorld; raises `ImportError` that says how to install it."""
    try:
        return importlib.import_module("textworld")
    except ImportError as error:
        raise ImportError("These games are TextWorld's, which is not installed: pip install textworld (Linux and macOS)") from error


def write_game(folder: Path, seed: int = 3, rooms: int = 1, objects: int = 2, quest_length: int = 2) -> Path:
    """Write a game of TextWorld's generator to `folder` and return its file, in about two seconds.

    The same numbers make the same game, under the same versions of TextWorld and of what it draws with.
    """
    options = textworld().GameOptions()
    options.seeds, options.nb_rooms, options.nb_objects, options.quest_length = seed, rooms, objects, quest_length
    options.path = str(folder / f"game_{seed}_{rooms}_{objects}_{quest_length}.z8")
    return Path(textworld().make(options)[0])


def hashed(text: str) -> NDArray[np.float32]:
    """Return which words stand in a text, [F]: 1 at the hash of each."""
    seen = np.zeros(WORDS, np.float32)
    seen[[zlib.crc32(word.encode()) % WORDS for word in re.findall(r"[a-z]+", text.lower())]] = 1.0
    return seen


class TextWorldGame(gym.Env[NDArray[np.float32], np.int64]):
    """One game: 1 is paid for its quest, which ends it. `info["action_mask"]` [A] tells the commands that make sense now; others do nothing.

    Args:
        path: a game's .z8 file, with TextWorld's .json beside it.
        seen: which of TextWorld's texts are seen, "description", "inventory" or "feedback".
        max_steps: commands after which an episode is truncated.
    """

    def __init__(self, path: Path, seen: Sequence[str] = STATE, max_steps: int = 20) -> None:
        self.commands: list[str] = sorted(textworld().generator.Game.load(str(path.with_suffix(".json"))).possible_admissible_commands)
        infos = textworld().EnvInfos(admissible_commands=True, description=True, inventory=True)
        self._game, self._seen, self._max_steps = textworld().start(str(path), infos), tuple(seen), max_steps
        self.observation_space = gym.spaces.Box(0.0, 1.0, (WORDS,), np.float32)
        self.action_space = gym.spaces.Discrete(len(self.commands))
        self._steps, self._score = 0, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin the game; it is the same each time, so that the seed changes nothing."""
        super().reset(seed=seed)
        self._steps, self._score = 0, 0.0
        return self._told(self._game.reset())

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Give the command and return what the game tells."""
        state, score, done = self._game.step(self.commands[int(action)])
        self._steps += 1
        reward, self._score = float(score) - self._score, float(score)  # TextWorld tells the score so far
        observation, info = self._told(state)
        return observation, reward, bool(done), not done and self._steps >= self._max_steps, info

    def close(self) -> None:
        """Stop the interpreter of the game."""
        self._game.close()

    def _told(self, state: Mapping[str, Any]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        allowed = set(state["admissible_commands"] or self.commands)  # none where the game is over
        mask = np.array([command in allowed for command in self.commands], dtype=np.int8)
        return hashed(" ".join(state[key] or "" for key in self._seen)), {"action_mask": mask}
