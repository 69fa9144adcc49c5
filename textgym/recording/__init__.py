"""Recording and exact replay: one JSON line an episode, each of which can be run again by itself, bit for bit.

    env = RecordEpisode(gym.make("TextGen-v0"), "episodes.jsonl")
    env = RecordVectorEpisode(gym.make_vec("TextGen-v0", num_envs=64), "episodes.jsonl")

and then `python -m textgym replay episodes.jsonl --verify` and `python -m textgym diff one.jsonl other.jsonl`.

What makes every line replayable, and not only the first after a seed, is the state of its row's random stream just before the episode began:
two 128-bit words of PCG64 and how many of the numbers drawn ahead were still unread. A stream is the one thing that all tasks draw from,
at their start and at any later step, so this holds for every core, needs no prompt index and no state of the task, and is 75 characters long.
"""

from .records import FORMAT, Difference, Record, Unusable, difference, read
from .replay import NotReplayableError, Parting, ReplayStoppedError, Verdict, first_difference, make_env, replay, verify
from .single import RecordEpisode
from .vector import RecordVectorEpisode

__all__ = [
    "FORMAT",
    "Difference",
    "NotReplayableError",
    "Parting",
    "Record",
    "RecordEpisode",
    "RecordVectorEpisode",
    "ReplayStoppedError",
    "Unusable",
    "Verdict",
    "difference",
    "first_difference",
    "make_env",
    "read",
    "replay",
    "verify",
]
