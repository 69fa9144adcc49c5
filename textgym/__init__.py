"""Text generation as a Gymnasium environment, token by token, measured against the truth.

Importing this package registers the suite: `gym.make("TextGen-v0")`, `gym.make_vec("TextGen-v0", num_envs=64)`.
Neither the import nor making an environment loads torch.
"""

import gymnasium as _gym

from .env import GymEnv
from .task import Completions, Prompt, Scorer, Task, Tokenizer
from .vector import GymVectorEnv

__version__ = "0.1.0"
__all__ = ["Completions", "GymEnv", "GymVectorEnv", "Prompt", "Scorer", "Task", "Tokenizer", "register"]


def register(id: str, core: str) -> None:
    """Register a task under `id`; `core` is "module:factory", called as `factory(num_rows=N, **options)`.

    Both Gymnasium faces follow from it: `gym.make(id)` is a batch of one, `gym.make_vec(id, num_envs=N)` is native.
    """
    _gym.register(id=id, entry_point="textgym.env:GymEnv", vector_entry_point="textgym.vector:GymVectorEnv", kwargs={"core": core})


register("TextGen-v0", "textgym.suite.textgen:text_gen")

register("textgym/TwoState-v0", "textgym.toy.two_state:TwoState")

register("textgym/Bandit-v0", "textgym.toy.tokens:bandit")
register("textgym/Even-v0", "textgym.toy.tokens:even")
register("textgym/Copy-v0", "textgym.toy.tokens:copy")
register("textgym/Reverse-v0", "textgym.toy.tokens:reverse")
register("textgym/Recall-v0", "textgym.toy.tokens:recall")
register("textgym/Password-v0", "textgym.toy.tokens:password")
register("textgym/Successor-v0", "textgym.toy.tokens:successor")
register("textgym/IncreasingNumbers-v0", "textgym.toy.tokens:increasing_numbers")
register("textgym/Brackets-v0", "textgym.toy.tokens:brackets")
register("textgym/Countdown-v0", "textgym.toy.tokens:countdown")

register("textgym/GuessNumber-v0", "textgym.toy.guess_number:guess_number")
register("textgym/SlotFilling-v0", "textgym.suite.slot_filling:slot_filling")

register("textgym/PathPlanning-v0", "textgym.toy.path_planning:path_planning")
register("textgym/PathPlanningText-v0", "textgym.toy.path_text:path_planning_text")
