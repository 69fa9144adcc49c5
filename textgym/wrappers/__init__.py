"""Other views of a text task, and fewer actions: for agents that want something else than ids over a whole vocabulary.

    env = LastTokens(gym.make("TextGen-v0"), k=8)
    envs = vector.LastTokens(gym.make_vec("TextGen-v0", num_envs=64), k=8)

The names of this package wrap one environment, the same names in `textgym.wrappers.vector` the native vector environment, in every
autoreset mode; each equals `SyncVectorEnv` of the other exactly (up to rounding, where a language model of less than float64 is asked).

`DictObservation`, `OneHotObservation`, `LastTokens`, `TextObservation` and `HiddenState` read token ids: they stand above nothing that
hides these (`LastTokens` and `TopKActions` do not). `FloatObservation` stands on any box. `TopKActions` reads the ids that it is shown.
"""

from . import vector
from .single import DictObservation, FloatObservation, HiddenState, LastTokens, OneHotObservation, TextObservation, TopKActions

__all__ = [
    "DictObservation",
    "FloatObservation",
    "HiddenState",
    "LastTokens",
    "OneHotObservation",
    "TextObservation",
    "TopKActions",
    "vector",
]
