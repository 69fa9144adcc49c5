"""Laws that a single Gymnasium environment should keep, each judged by playing it.

`judge(make)` takes a function without arguments that makes the environment anew, and returns one `Verdict` for each law.
Laws about an id (its spec, its vector form) apply where `make` goes through `gymnasium.make`.
"""

from __future__ import annotations

from . import checkers, masks, registered, returned, seeding, tokens
from .verdicts import Law, Make, NotApplicableError, Remark, Verdict, verdict

__all__ = ["Law", "Make", "NotApplicableError", "Remark", "Verdict", "judge", "laws"]

STEPS = 64


def judge(make: Make, steps: int = STEPS) -> list[Verdict]:
    """Return the verdict of every law on the environments of `make`, each played for `steps` steps or a little longer, up to an episode's end.

    Raises:
        TypeError: `make` is an environment itself, or anything else that cannot be called.
        ValueError: `steps` is below 1.
    """
    if not callable(make):
        raise TypeError(f"make must be a function that makes the environment anew, got {type(make).__name__}; write judge(lambda: ...).")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    return [verdict(law, make) for law in laws(steps)]


def laws(steps: int = STEPS) -> list[Law]:
    """Return the laws, in the order in which they are told."""
    return [*_of_every_environment(steps), *_of_texts(steps), *_of_ids(steps), *_of_other_libraries()]


def _of_every_environment(steps: int) -> list[Law]:
    copies = "Return a copy of the observation, not the array that the next step overwrites."
    refuse = "Raise gymnasium.error.ResetNeeded in step() when the episode is over, or return the flag again."
    return [
        Law("deterministic under its seed", lambda make: seeding.deterministic(make, steps), "Draw from self.np_random alone, after super().reset(seed=seed)."),
        Law("another seed, another episode", lambda make: seeding.another_seed(make, steps), "Pass the seed on: super().reset(seed=seed)."),
        Law(
            "observations in their space",
            lambda make: returned.in_space(make, steps),
            "Let observation_space agree with what is returned: shape, dtype, bounds.",
        ),
        Law("flags are bools", lambda make: returned.flags_are_bools(make, steps), "Return bool(terminated) and bool(truncated)."),
        Law("observations are fresh copies", lambda make: returned.fresh(make, steps), copies),
        Law(
            "pickles in mid-episode",
            lambda make: seeding.pickles(make, steps),
            "Keep no lambdas, open files or modules in the environment, and all of its state.",
        ),
        Law("an ended episode stays ended", lambda make: returned.stays_ended(make, steps), refuse),
        Law("finite infos at the end", lambda make: returned.finite_infos(make, steps), "Put finite numbers into the info; of a text, its score as well."),
        Law(
            "masks agree and allow something",
            lambda make: masks.masks(make, steps),
            "Compute the mask once, for both, and end the episode where nothing is left.",
        ),
    ]


def _of_texts(steps: int) -> list[Law]:
    aligned = "Put the prompt's last token into column P - 1, and the first token of the text into column P, for every prompt."
    return [
        Law("paid at the end", lambda make: returned.paid_at_the_end(make, steps), "Return 0.0 until the episode ends, or say that the task is dense."),
        Law("token observations grow", lambda make: tokens.grows(make, steps), "Write each token into the next column, and leave the others as they are."),
        Law("the prompt is right-aligned", lambda make: tokens.right_aligned(make, steps), aligned),
    ]


def _of_ids(steps: int) -> list[Law]:
    json = 'Register the entry point as "module:Class", with options that JSON keeps as they are: names, numbers, lists.'
    sync = "Seed row i with seed + i, and lay out observations, infos and final_obs as SyncVectorEnv does; textgym.GymVectorEnv does so for every Core."
    return [
        Law("the spec goes through JSON", lambda make: registered.through_json(make, steps), json),
        Law("the native vector form equals SyncVectorEnv", lambda make: registered.native_equals_sync(make, steps), sync),
        Law("a fork replays exactly", lambda make: registered.forks(make, steps), "Copy everything that changes, the random streams included."),
    ]


def _of_other_libraries() -> list[Law]:
    return [
        Law("Gymnasium's check_env", checkers.gymnasium_checker, "See the message; gymnasium.utils.env_checker says more."),
        Law("Stable-Baselines3's check_env", checkers.sb3_checker, "See the message; stable_baselines3.common.env_checker says more."),
    ]
