"""Turns: who answers, what stands in a text afterwards, and what the responders of the house say.

Axis legend: B dialogues, L observation columns.
"""

from __future__ import annotations

import itertools
import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import WORDS, LetterShare, SmallCore, small_task
from test_vector import assert_same

import textgym
from textgym import GymEnv, GymVectorEnv, responders, scorers
from textgym.episodes import ResponderError, TextCore
from textgym.film_reviews import film_reviews
from textgym.oracle import as_seen, evaluate, from_core, solve
from textgym.prompts import GrammarPrompts, ListPrompts
from textgym.recording import RecordEpisode, RecordVectorEpisode, verify
from textgym.responders import Calculator, UserSimulator
from textgym.responders.calculator import value_of
from textgym.suite.slot_filling import SlotFilling, slot_filling
from textgym.task import Answer, Completions, Prompt, Task, Turn
from textgym.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer

pytestmark = pytest.mark.core

MODES = list(AutoresetMode)
NOISY: dict[str, Any] = {"noise": 0.4, "patience": 4, "max_new_tokens": 20}  # chance has a say in most turns


def say(env: GymEnv, text: str) -> tuple[Any, ...]:
    """Write `text` token by token; return the last step."""
    step: tuple[Any, ...] = ()
    for token in env.core.task.tokenizer.encode(text):
        step = env.step(token)
    return step


def ending(env: GymEnv) -> tuple[Any, ...]:
    return env.step(env.core.task.tokenizer.eos_id)


def talk(env: GymEnv, text: str) -> list[str]:
    """Write `text`; return all turns so far."""
    say(env, text)
    return [turn.text for turn in env.core.completions(np.array([0])).turns[0]]


# --- the calculator


@pytest.mark.parametrize(
    "expression",
    [
        "12+7",
        "2+3*4",
        "2*3+4",
        "10-4-3",
        "100//7//2",
        "-7//2",
        "7//-2",
        "-(2+3)*4",
        "--5",
        "+3",
        "2*-3",
        "((1))",
        "2*(3+4)*5",
        "00012+7",
        "8-2*3",
        "1-(2-(3-4))",
    ],
)
def test_values_are_pythons_own(expression: str) -> None:
    assert value_of(expression) == eval(expression.replace("00012", "12"))


def test_values_of_random_expressions_are_pythons_own() -> None:
    random = np.random.default_rng(0)

    def grown(depth: int) -> str:
        kind = random.integers(5) if depth else 0
        if kind == 0:
            return str(random.integers(100))
        if kind == 1:
            return f"(-{grown(depth - 1)})" if random.random() < 0.5 else f"-({grown(depth - 1)})"
        return f"{grown(depth - 1)}{random.choice(['+', '-', '*', '//'])}{grown(depth - 1)}"

    for _ in range(500):
        expression = grown(4)
        try:
            wanted = eval(expression)
        except ZeroDivisionError:
            with pytest.raises(ZeroDivisionError):
                value_of(expression)
        else:
            assert value_of(expression) == wanted, expression


@pytest.mark.parametrize(
    "said", ["=", "7 // 0 =", "2 ** 3 =", "7 / 2 =", "2 + =", "( 1 + 2 =", "1 ) =", "* 3 =", "nothing =", "( ) =", "1 ( 2 ) =", "9" * 101 + "="]
)
def test_what_is_no_expression_is_an_error(said: str) -> None:
    assert Calculator().work_out(said) == "error"


@pytest.mark.parametrize(
    ("said", "result"), [("the price is 12 and 12 + 7 =", "19"), ("so 3 - 10 =", "-7"), ("1 2+7=", "19"), (f"{'(' * 49}1{')' * 49} =", "1"), ("x2*3=", "6")]
)
def test_words_before_and_blanks_do_not_matter(said: str, result: str) -> None:
    assert Calculator().work_out(said) == result


def calculating(tokenizer: Any, prompt: str = "0", **options: Any) -> GymEnv:
    def core(num_rows: int) -> TextCore:
        sizes = {"max_prompt_tokens": 20, "max_new_tokens": 40, "max_response_tokens": 40}
        return TextCore(
            Task(ListPrompts([Prompt(prompt, reference="19")]), tokenizer, scorers.FinalAnswer(), **sizes, responder=Calculator(**options)), num_rows
        )

    env = GymEnv(core)
    env.reset(seed=0)
    return env


def test_the_result_stands_in_the_text_character_by_character() -> None:
    env = calculating(CharTokenizer("0123456789+-*/()= eor"))
    assert talk(env, "12 + 7 =") == ["12 + 7 =", "19"]
    assert talk(env, " 3-10=") == ["12 + 7 =", "19", " 3-10=", "-7"]
    assert talk(env, "1//0=")[-1] == "error"
    assert env.texts() == ["12 + 7 =19 3-10=-71//0=error"]


def test_a_form_parts_the_result_from_what_follows() -> None:
    assert talk(calculating(ByteTokenizer(), form=" {} ;"), "12 + 7 =") == ["12 + 7 =", " 19 ;"]
    with pytest.raises(ValueError, match="no place for the result"):
        Calculator(form="result")


@pytest.mark.parametrize(
    ("words", "said", "answer"),
    [
        (["12", "7", "+", "=", "19"], "12 + 7 =", "19"),  # one word
        ([*"0123456789", "+", "="], "1 2 + 7 =", "1 9"),  # digit by digit
        ([*"0123456789", "-", "="], "3 - 1 0 =", "- 7"),
        (["12", "7", "+", "=", "error", "0"], "12 + 7 =", "error"),  # 19 cannot be spelled
        (["12", "7", "+", "=", "0"], "12 + 7 =", ""),  # nor can "error": the answer is empty
    ],
)
def test_words_are_spelled_as_the_vocabulary_allows(words: list[str], said: str, answer: str) -> None:
    assert "".join(talk(calculating(WordTokenizer(words), words[0]), said)[1:]) == answer


def test_an_unknown_word_is_no_spelling() -> None:
    assert talk(calculating(WordTokenizer(["12", "7", "+", "=", "error"], unk="<unk>"), "12"), "12 + 7 =")[-1] == "error"


def test_after_an_empty_answer_only_the_new_expression_counts() -> None:
    env = calculating(WordTokenizer(["1", "2", "5", "+", "="]), "1")
    assert talk(env, "2 + 2 = 1 + 1 =") == ["2 + 2 =", "", "1 + 1 =", "2"]
    assert talk(env, "5 +") == ["2 + 2 =", "", "1 + 1 =", "2", "5 +"]
    env.reset()
    assert talk(env, "2 + 2 = + 1 =")[2:] == ["+ 1 =", "1"]  # not 2 + 2 + 1


def test_an_empty_answer_is_a_turn() -> None:
    tokens = np.array([[1, 5, 2, 5, 5, 0], [1, 5, 5, 5, 2, 6], [1, 2, 6, 6, 6, 6], [6] * 6, [5, 0, 6, 6, 6, 6]])
    agent = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0], [0] * 6, [1, 1, 0, 0, 0, 0]], dtype=bool)
    lengths, e = np.array([6, 5, 2, 0, 2]), np.arange(6) == 5
    fixed = (np.zeros(5, dtype=bool), np.full((5, 1), 1), np.zeros(5, dtype=np.int64), ListPrompts(["a"]), WordTokenizer(WORDS))
    turns = Completions(tokens, lengths, *fixed, agent=agent, hand_over=e).turns
    assert turns[0] == [Turn(True, "a e"), Turn(False, ""), Turn(True, "b e"), Turn(False, ""), Turn(True, "e"), Turn(False, ""), Turn(True, "")]
    assert turns[1] == [Turn(True, "a e"), Turn(False, "e e"), Turn(True, "b")]  # what the responder says hands nothing over
    assert turns[2:] == [[Turn(True, "a b")], [], [Turn(True, "e"), Turn(False, ""), Turn(True, "")]]
    assert Completions(tokens, lengths, *fixed, agent=agent).turns[0] == [Turn(True, "a e b e e")]


def test_turns_and_their_number_agree_where_nothing_is_answered() -> None:
    seen: list[list[Turn]] = []

    def silent(dialogues: Completions) -> list[Answer]:
        seen.append(dialogues.turns[0])
        return [Answer("")] * len(dialogues)

    env = GymEnv(SmallCore(responder=Says(silent), max_response_tokens=1, max_new_tokens=6))
    env.reset(seed=0)
    say(env, "a e b e")
    assert seen == [[Turn(True, "a e")], [Turn(True, "a e"), Turn(False, ""), Turn(True, "b e")]]
    assert ending(env)[4]["turns"] == 2


# --- what the agent said is what is judged


def dialogue(*rows: tuple[str, str], words: str = "the . good bad a b", ended: bool = True) -> Completions:
    """Rows of words and who said each: "a" the agent, "r" the responder; "<eos>" is spelled out."""
    tokenizer = WordTokenizer(["<eos>", *words.split()])
    width = max(len(said.split()) for said, _ in rows)
    tokens = np.full((len(rows), width), tokenizer.vocab_size)
    agent = np.zeros(tokens.shape, dtype=bool)
    for i, (said, by) in enumerate(rows):
        tokens[i, : len(by)] = [["<eos>", *words.split()].index(word) for word in said.split()]
        agent[i, : len(by)] = [who == "a" for who in by]
    lengths, ones = np.array([len(by) for _, by in rows]), np.ones(len(rows), dtype=np.int64)
    source = ListPrompts([Prompt("the", reference="good .")])
    return Completions(tokens, lengths, ones.astype(bool) & ended, ones[:, None], 0 * ones, source, tokenizer, agent=agent)


def test_length_and_repetition_count_the_agents_tokens() -> None:
    batch = dialogue(("the .", "aa"), ("the . <eos>", "aaa"), ("the . the the the <eos>", "aarrra"), ("the . the the", "aarr"))
    assert scorers.Length(2)(batch).tolist() == [1.0] * 4
    assert scorers.Repetition(1)(batch).tolist() == [1.0] * 4
    assert scorers.Repetition(1)(dialogue(("the . good the .", "aaraa"))).tolist() == [0.5]
    assert scorers.Length(2)(dialogue(("the .", "aa"), ended=False)).tolist() == [1.0]


@pytest.mark.parametrize(
    ("scorer", "wanted"),
    [
        (scorers.Sentiment(("good",), ("bad",)), [0.0, 1.0]),
        (scorers.Keyword(("good",)), [0.0, 1.0]),
        (scorers.ExactMatch(), [0.0, 1.0]),
        (scorers.TextFunction(lambda text: float(text == "good .")), [0.0, 1.0]),
        (scorers.NgramClassifier(("the good", "good bad"), (50.0, -100.0), -25.0), [0.0, 1.0]),
        (scorers.WeightedSum({"part": (scorers.Keyword(("good",)), 1.0)}), [0.0, 1.0]),
        (scorers.Cached(scorers.Keyword(("good",))), [0.0, 1.0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_responders_words_earn_nothing(scorer: Any, wanted: list[float]) -> None:
    batch = dialogue(("bad . good good .", "aarrr"), ("good bad bad .", "arra"))
    assert np.round(scorer(batch), 6).tolist() == wanted


def test_a_grammar_is_kept_by_the_agent() -> None:
    words = film_reviews().words
    review = GrammarPrompts(film_reviews(), num=1, seed=0)[0]
    tokenizer = WordTokenizer(["<eos>", *words])
    said = tokenizer.encode(review.reference or "")
    answered = [*said[:1], *said[:1], *said[1:]]  # the responder says the first word once more, and breaks the grammar
    head = np.array([tokenizer.encode(review.text)] * 3)
    rows = [[*answered, 0], [*answered, 1], [*answered[:2], *[tokenizer.vocab_size] * (len(answered) - 1)]]
    agent = np.ones((3, len(answered) + 1), dtype=bool)
    agent[:, 1] = agent[1, -1] = False
    lengths, ended = np.array([len(answered) + 1] * 2 + [2]), np.array([True] * 3)
    batch = Completions(np.array(rows), lengths, ended, head, np.zeros(3, dtype=np.int64), ListPrompts([review]), tokenizer, agent=agent)
    assert scorers.make("film_grammar")(batch).tolist() == [1.0, 1.0, 1.0]  # the last one was ended by the responder: a beginning
    agent[0, 1] = True
    assert scorers.make("film_grammar")(replace(batch)).tolist()[0] == 0.0


def test_a_task_solved_with_the_tool() -> None:
    """A sum too large for the agent: it asks the tool and says what it was told; asking costs nothing, only the last word counts."""
    words = WordTokenizer([*map(str, range(100)), "the", "price", "is", "and", "together", ",", "+", "=", "so"])
    prompts = [Prompt(f"the price is {a} and {b} , together", reference=f"so {a + b}") for a, b in ((12, 7), (40, 2), (31, 68))]
    env = gym.make(
        "TextGen-v0",
        prompts=prompts,
        tokenizer=words,
        scorer="final_answer",
        responder="calculator",
        max_prompt_tokens=8,
        max_new_tokens=8,
        max_response_tokens=4,
    ).unwrapped
    for index, (a, b) in enumerate(((12, 7), (40, 2), (31, 68))):
        env.reset(seed=0, options={"prompt": index})
        assert talk(env, f"{a} + {b} =")[-1] == str(a + b)
        said = env.core.task.tokenizer.decode([token for token in env.core.observe(slice(None))[0].tolist() if token < words.vocab_size]).split()[-1]
        say(env, f"so {said}")
        _, reward, terminated, _, info = ending(env)
        assert (reward, terminated, info["turns"]) == (1.0, True, 1)
    env.reset(options={"prompt": 0})
    say(env, "so 20")
    assert ending(env)[1] == 0.0


def test_the_final_answer_is_what_was_said_after_the_last_one() -> None:
    env = calculating(CharTokenizer("0123456789+= "))
    say(env, "12+7=")
    assert ending(env)[1] == 0.0  # the tool said 19, the agent did not
    env.reset()
    say(env, "12+7= 19")
    assert ending(env)[1] == 1.0
    short = Task(
        ListPrompts([Prompt("0", reference="19")]), CharTokenizer("0123456789+= "), scorers.FinalAnswer(), 1, 5, responder=Calculator(), max_response_tokens=9
    )
    env = GymEnv(lambda num_rows: TextCore(short, num_rows))
    env.reset()
    assert say(env, "12+7=")[1:3] == (0.0, True)  # the budget ends behind the tool's 19
    assert env.texts() == ["12+7=19"]
    unwanted = Task(ListPrompts(["0"]), CharTokenizer("0="), scorers.FinalAnswer(), responder=Calculator(), max_response_tokens=9)
    env = GymEnv(lambda num_rows: TextCore(unwanted, num_rows))
    env.reset()
    with pytest.raises(ValueError, match="no reference"):
        ending(env)


# --- the user


GOAL = {"food": "thai", "area": "north"}


def turns_of(*said: str) -> list[Turn]:
    return [Turn(i % 2 == 0, text) for i, text in enumerate(said)]


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (["food ?"], "question"),
        (["area?"], "question"),  # characters need no blanks
        (["food ?", "pardon", "food ?"], "question"),  # it was not answered
        (["food ?", "thai", "food ?"], "again"),
        (["food ?", "thai", "area ?"], "question"),
        (["thai north ."], "offer"),
        (["north thai ."], "offer"),
        (["north thai thai ."], "wrong"),
        (["thai ."], "wrong"),
        (["thai south ."], "wrong"),
        ([" ."], "nonsense"),
        (["?"], "nonsense"),
        (["price ?"], "nonsense"),
        (["food area ?"], "nonsense"),
        (["thai north ?"], "nonsense"),
    ],
)
def test_what_the_user_hears(said: list[str], heard: str) -> None:
    assert UserSimulator().heard(turns_of(*said), GOAL)[-1] == heard


def slots(seed: int = 0, **options: Any) -> GymEnv:
    env = GymEnv(slot_filling, **({"noise": 0.0} | options))
    env.reset(seed=seed, options={"prompt": 0})  # thai, north
    return env


def test_a_dialogue_that_succeeds() -> None:
    env = slots()
    assert talk(env, "food ? area ?") == ["food ?", "thai", "area ?", "north"]
    _, reward, terminated, truncated, info = say(env, "thai north .")
    assert (terminated, truncated, info["turns"]) == (True, False, 3)
    assert reward == info["score"] == pytest.approx(1 - 3 * 0.05)
    assert env.texts() == ["food ? thai area ? north thai north . thanks"]


def test_patience_wears_out() -> None:
    env = slots(patience=3)
    assert talk(env, "greek north . food ? food ?") == ["greek north .", "no", "food ?", "thai", "food ?", "thai"]
    _, reward, terminated, _, info = say(env, "?")
    assert (terminated, info["turns"]) == (True, 4)
    assert env.texts()[0].endswith("? bye")
    assert reward == 0.0


def test_nonsense_is_begged_pardon_and_what_was_not_heard_costs_no_patience() -> None:
    assert talk(slots(), "area food ?")[-1] == "pardon"
    env = slots(noise=0.9, patience=1, max_new_tokens=400, turn_cost=0.0)
    answers = list(itertools.takewhile(lambda _: not say(env, "food ?")[2], range(200)))
    assert len(answers) > 3  # until it was heard, and asked once more
    assert talk_of(env)[-1] == "bye"


def talk_of(env: GymEnv) -> list[str]:
    return [turn.text for turn in env.core.completions(np.array([0])).turns[0]]


def test_giving_up_and_an_empty_budget_are_no_success() -> None:
    env = slots()
    say(env, "food ?")
    assert ending(env)[1] == 0.0
    env = slots(max_new_tokens=4)
    assert say(env, "food ? area ?")[1:3] == (0.0, True)
    env = slots(max_new_tokens=7)
    assert say(env, "food ? area ? thai north .")[1] == pytest.approx(0.85)  # the last token of the budget may succeed


def test_dense_pays_for_what_is_told_and_sums_to_the_same() -> None:
    env = slots(dense=True)
    paid = [env.step(token)[1] for token in env.core.task.tokenizer.encode("food ? food ? area ? thai north .")]
    np.testing.assert_allclose(paid, [0, 0.25, 0, 0, 0, 0.25, 0, 0, 0.3], atol=1e-12)
    env = slots(dense=True)
    assert say(env, "food ?")[1] == pytest.approx(0.25)
    assert ending(env)[1] == pytest.approx(-0.25)  # nothing in all


def played(task: SlotFilling, act: Callable[[np.ndarray], np.ndarray], rows: int, seed: int) -> np.ndarray:
    """The scores of one dialogue on each row."""
    env = GymVectorEnv(lambda num_rows: TextCore(task.task(), num_rows), rows, autoreset_mode=AutoresetMode.SAME_STEP)
    observations, _ = env.reset(seed=seed)
    scores = np.full(rows, np.nan)
    while np.isnan(scores).any():
        observations, _, over, _, infos = env.step(act(observations))
        if over.any():
            fresh = over & np.isnan(scores)
            scores[fresh] = infos["final_info"]["score"][fresh]
    return scores


@pytest.mark.parametrize("changes", [{}, {"noise": 0.3, "patience": 1}, {"slots": {"food": ("thai", "greek")}, "patience": 9, "turn_cost": 0.2}], ids=str)
def test_the_random_return_is_what_random_agents_get(changes: dict[str, Any]) -> None:
    task, random = SlotFilling(**changes), np.random.default_rng(1)
    ids = len(task.words()) + 1
    scores = played(task, lambda observations: random.integers(ids, size=len(observations)), 2500, seed=1)
    assert task.random_return() == pytest.approx(scores.mean(), abs=4 * scores.std() / 2500**0.5)


def test_the_best_return_is_reached_by_asking_and_bounds_it() -> None:
    """Asking until it is told both values, then offering, earns 1 - c (2 / (1 - noise) + 1); guessing the last value once is no worse."""
    task = SlotFilling()
    words = WordTokenizer(task.words())

    def ask(observations: np.ndarray) -> np.ndarray:
        actions = []
        for row in observations.tolist():
            said = words.decode([token for token in row if token < words.vocab_size]).split()
            told = [word for word in said if word in ("thai", "greek", "indian")][:1] + [word for word in said if word in ("north", "south", "centre")][:1]
            at, offer = said[-1], "?" not in said or len(told) == 2
            if len(told) < 2:
                step = "?" if at in task.slots else "food" if not set(said) & {"thai", "greek", "indian"} else "area"
            else:
                begun = sum(said.count(word) - 1 for word in told)
                step = [*told, "."][begun]
            assert offer or step
            actions.append(words.encode(step)[0])
        return np.array(actions)

    scores = played(task, ask, 1500, seed=2)
    asking = 1 - 0.05 * (2 / 0.9 + 1)
    assert scores.mean() == pytest.approx(asking, abs=4 * scores.std() / 1500**0.5 + 0.002)  # the budget cuts a few
    assert asking < task.best_return() < asking + 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"slots": {"food": ("thai", "greek")}, "patience": 2, "max_new_tokens": 4},
        {"slots": {"food": ("thai", "greek")}, "patience": 2, "max_new_tokens": 4, "dense": True},
        {"slots": {"food": ("thai", "greek", "indian")}, "patience": 1, "max_new_tokens": 4},
        {"slots": {"food": ("thai", "greek", "indian")}, "max_new_tokens": 3, "turn_cost": 0.7},  # better one guess than a question, and no second one
        {"slots": {"food": ("thai",), "area": ("north",)}, "max_new_tokens": 3},  # two orders of an offer
    ],
    ids=str,
)
def test_best_and_random_return_are_the_oracles(options: dict[str, Any]) -> None:
    task = SlotFilling(noise=0.0, **options)
    seen = as_seen(from_core(TextCore(task.task(), 1)))
    assert solve(seen, gamma=1.0).v @ seen.start == pytest.approx(task.best_return(), abs=1e-12)
    uniform = np.full(seen.rewards.shape, 1 / seen.num_actions)
    assert evaluate(seen, uniform, gamma=1.0).v @ seen.start == pytest.approx(task.random_return(), abs=1e-12)


def test_slots_and_users_that_make_no_task_are_refused() -> None:
    for changes in ({"slots": {"food": ("thai", "thai")}}, {"slots": {"food": ("no",)}}, {"slots": {"food": ()}}, {"slots": {}}):
        with pytest.raises(ValueError, match="distinct words"):
            SlotFilling(**changes)
    with pytest.raises(ValueError, match="distinct words"):
        gym.make("textgym/SlotFilling-v0", slots={})
    with pytest.raises(ValueError, match="turn_cost"):
        SlotFilling(turn_cost=-1.0)
    with pytest.raises(ValueError, match="patience"):
        UserSimulator(patience=0)
    with pytest.raises(ValueError, match="noise"):
        UserSimulator(noise=1.0)
    with pytest.raises(ValueError, match="different signs"):
        UserSimulator(offer_sign="?")
    for data in ({}, {"goal": {}}, {"goal": {"food": "thai curry"}}, {"goal": {"food": 3}}):
        prompts = ListPrompts([Prompt("c", data=data)])
        env = GymEnv(SmallCore(prompts=prompts, responder=UserSimulator(question_sign="a", offer_sign="b"), max_response_tokens=5))
        env.reset(seed=0)
        with pytest.raises(ResponderError, match="needs a goal"):
            env.step(1)


# --- laws 1 and 2, recording and forks, where chance decides


def noisy(num_rows: int) -> TextCore:
    return slot_filling(num_rows, **NOISY)


def likely(random: np.random.Generator, size: int) -> np.ndarray:
    """Questions more often than not: slots and signs are ids 0, 1, 8 and 9 of 16."""
    return random.choice(16, size=size, p=np.where(np.isin(np.arange(16), (0, 1, 8)), 0.26, 0.22 / 13))


@pytest.mark.parametrize("mode", MODES)
def test_native_equals_sync_where_the_user_draws_lots(mode: AutoresetMode) -> None:
    ours, theirs = GymVectorEnv(noisy, 4, autoreset_mode=mode), SyncVectorEnv([lambda: GymEnv(noisy)] * 4, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3), "reset")
    random, ends, answers = np.random.default_rng(3), 0, 0
    for t in range(400):
        actions = likely(random, 4)
        step = ours.step(actions)
        assert_same(step, theirs.step(actions), f"step {t}")
        ended = step[2] | step[3]
        ends += int(ended.sum())
        answers += int((step[0] == 13).any(axis=1).sum())
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(ours.reset(options={"reset_mask": ended}), theirs.reset(options={"reset_mask": ended.copy()}), f"reset {t}")
    assert ends > 50
    assert answers > 50  # "pardon" was heard


def test_a_fork_in_mid_dialogue_repeats_the_lots_or_draws_its_own() -> None:
    env = GymVectorEnv(noisy, 2, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=4)
    question = [np.array([0, 0]), np.array([8, 8])]
    for actions in question:
        env.step(actions)
    same, fresh = env.fork([1], 8), env.fork([1], 8, seed=11)
    for actions in question[:1] + question[1:]:
        theirs = env.step(actions)
        copies, others = same.step(actions[1:].repeat(8)), fresh.step(actions[1:].repeat(8))
        for part in range(4):
            assert_same(copies[part], theirs[part][[1] * 8], str(part))
    assert len(np.unique(others[0], axis=0)) > 1  # some were heard, some not


def test_state_pickle_and_checkers_in_mid_dialogue() -> None:
    env = gym.make("textgym/SlotFilling-v0", **NOISY).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("textgym/SlotFilling-v0", **NOISY).unwrapped)
    random = np.random.default_rng(5)
    env.reset(seed=5)
    say(env, "food ? food")
    copy, state = pickle.loads(pickle.dumps(env)), pickle.loads(pickle.dumps(env.get_state()))
    other = gym.make("textgym/SlotFilling-v0", **NOISY).unwrapped
    other.reset(seed=99)
    other.set_state(state)
    for action in [8, *likely(random, 60).tolist()]:
        step = env.step(action)
        assert data_equivalence(step, copy.step(action), exact=True)
        assert data_equivalence(step, other.step(action), exact=True)
        if step[2]:
            assert data_equivalence(env.reset(), copy.reset(), exact=True)
            assert data_equivalence(env.render_mode, other.render_mode)
            other.reset()


@pytest.mark.parametrize(
    ("id", "options"),
    [("textgym/SlotFilling-v0", NOISY), ("textgym/GuessNumber-v0", {"dense": True}), ("TextGen-v0", {"responder": "echo of the tests"})],
    ids=["slots", "guess", "by name"],
)
def test_recordings_of_dialogues_replay(id: str, options: dict[str, Any], tmp_path: Path) -> None:
    if id == "TextGen-v0":
        calculator = {"name": "calculator", "form": " {}"}
        options = {"prompts": ["1 + 2", "7"], "tokenizer": "byte", "scorer": "length", "responder": calculator, "max_response_tokens": 60}
        options["scorer"] = {"name": "length", "target": 5}
    assert type(spec := gym.make(id, **options).spec).from_json(spec.to_json()) == spec
    with RecordEpisode(gym.make(id, **options), tmp_path / "single.jsonl") as env:
        env.action_space.seed(0)
        env.reset(seed=6)
        for t in range(120):
            if env.step(61 if id == "TextGen-v0" and t % 5 == 0 else env.action_space.sample())[2]:
                env.reset()
    rows = RecordVectorEpisode(gym.make_vec(id, num_envs=3, **options), tmp_path / "rows.jsonl")
    rows.action_space.seed(0)
    rows.reset(seed=6)
    for _ in range(60):
        rows.step(rows.action_space.sample())
    rows.close()
    for file in ("single.jsonl", "rows.jsonl"):
        verdicts = list(verify(tmp_path / file))
        assert verdicts
        assert all(isinstance(verdict.difference, type(None)) for verdict in verdicts), verdicts[0]


def test_who_spoke_is_told_at_every_step() -> None:
    env = slots()
    _, _, _, _, info = say(env, "food ?")
    assert info["agent_mask"].dtype == np.int8
    assert info["agent_mask"].tolist() == [0, 1, 1, 0] + [0] * 25  # the prompt, two of the agent's, the answer, columns to come
    _, _, _, _, info = say(env, "area")
    assert info["agent_mask"].tolist() == [0, 1, 1, 0, 1] + [0] * 24


# --- the registry, and what is refused


def test_responders_by_name_as_mappings_and_as_objects() -> None:
    assert {"calculator", "user_simulator"} <= set(responders.names())
    assert responders.make("calculator") == Calculator()
    assert responders.make({"name": "user_simulator", "noise": 0.25}) == UserSimulator(noise=0.25)
    mine = UserSimulator(patience=7)
    assert responders.make(mine) is mine
    for wrong, message in (("calculater", "did you mean 'calculator'"), ({"noise": 0.1}, "needs a 'name'"), ({"name": "nobody"}, "no responder 'nobody'")):
        with pytest.raises(ValueError, match=message):
            responders.make(wrong)
    for unfit, message in (({"name": "calculator", "size": 3}, "could not be built"), (Calculator, "is a class"), (lambda d, u: [], "end_of_turn")):
        with pytest.raises(TypeError, match=message):
            responders.make(unfit)
    with pytest.raises(TypeError, match="spelled as a text, not by 7"):
        gym.make("TextGen-v0", responder=Calculator(sign=7), max_response_tokens=4)  # type: ignore[arg-type]


def test_a_name_is_given_once() -> None:
    try:
        responders.register("mine")(Calculator)
        assert responders.make({"name": "mine", "sign": "->"}).end_of_turn == ("->",)
        with pytest.raises(ValueError, match="registered already"):
            responders.register("mine")(UserSimulator)
    finally:
        responders.RESPONDERS.pop("mine", None)


@dataclass(frozen=True)
class Says:
    """A responder that answers "a" by whatever it is told to."""

    answer: Callable[[Completions], Any]
    end_of_turn: Any = ("e",)

    def __call__(self, dialogues: Completions, lots: np.ndarray) -> Any:
        return self.answer(dialogues)


def everything(**answer: Any) -> Callable[[Completions], Any]:
    return lambda dialogues: [Answer(**answer)] * len(dialogues)


def without_end() -> Iterator[int]:
    return itertools.repeat(1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (everything(ids=[6]), "id 6, outside the vocabulary of 6"),
        (everything(ids=[-1]), "id -1, outside the vocabulary"),
        (everything(ids=without_end()), "more than the 4 tokens that are left"),
        (everything(text="a b c d e"), "more than the 4 tokens that are left"),
        (everything(ids=[1.5]), "no integers"),
        (everything(ids="ab"), "no integers"),
        (everything(ids=[0]), "answered with EOS"),
        (everything(ids=[True]), "no integers .* True is a flag"),
        (everything(text=None), "text=None; text is a str"),
        (everything(text=5), "text=5; text is a str"),
        (everything(ends="no"), "ends='no'; ends is True or False"),
        (everything(text="xyz"), "'xyz' is not among"),
        (lambda dialogues: (Answer("a") for _ in itertools.count()), "2 dialogues came in, .* got more"),
        (lambda dialogues: [Answer("a")], "2 dialogues came in, .* got 1"),
        (lambda dialogues: ["a"] * len(dialogues), r"Answer\(text"),
        (lambda dialogues: None, "raised TypeError"),
        (lambda dialogues: [dialogues.prompts[0].data["secret"]], "raised KeyError"),
    ],
)
def test_what_a_responder_may_not_say(answer: Callable[[Completions], Any], message: str) -> None:
    env = GymVectorEnv(SmallCore(responder=Says(answer), max_response_tokens=4), 2)
    env.reset(seed=0, options={"prompt": 1})
    env.step(np.array([1, 1]))
    with pytest.raises(ResponderError, match=message) as caught:
        env.step(np.array([5, 5]))
    assert "came in" in str(caught.value) or "'b c' -> 'a e'" in str(caught.value)  # where it happened


def test_a_responder_that_never_ends_a_dialogue_is_stopped_by_the_budget() -> None:
    env = GymEnv(SmallCore(responder=Says(everything(text="b")), max_response_tokens=5))
    env.reset(seed=0)
    steps = [env.step(5) for _ in range(5)]
    assert [step[2] for step in steps] == [False] * 4 + [True]
    assert steps[-1][4]["turns"] == 5


@pytest.mark.parametrize(
    ("signs", "message"),
    [((), "at least one token"), (("<eos>",), "ends a text"), (("a b",), "one token"), (("zzz",), "cannot spell"), ("e", "put it into a list")],
)
def test_signs_that_cannot_end_a_turn(signs: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        SmallCore(responder=Says(everything(), signs), max_response_tokens=4)(1)


def test_an_unknown_word_ends_no_turn() -> None:
    words = WordTokenizer(["a", "b"], unk="<unk>")
    with pytest.raises(ValueError, match="one token"):
        TextCore(small_task(tokenizer=words, prompts=ListPrompts(["a"]), responder=Says(everything(), ("zzz",)), max_response_tokens=4), 1)


def test_room_for_answers_and_responders_belong_together() -> None:
    with pytest.raises(ValueError, match="max_response_tokens"):
        SmallCore(responder=Says(everything()))(1)
    with pytest.raises(ValueError, match="nobody gives any"):
        SmallCore(max_response_tokens=4)(1)


def test_a_responder_without_lots_leaves_the_stream_alone() -> None:
    """So that its dialogues can be enumerated, and that prompts are drawn as without it."""

    @dataclass(frozen=True)
    class Sure(Says):
        draws_lots = False

    sure = GymVectorEnv(lambda num_rows: TextCore(small_task(responder=Sure(everything(text="b")), max_response_tokens=9, scorer=LetterShare()), num_rows), 1)
    plain = GymVectorEnv(SmallCore(), 1)
    assert_same(sure.reset(seed=1)[0][:, :3], plain.reset(seed=1)[0][:, :3], "prompt")
    for actions in ([5], [0], [1]):
        seen = [env.step(np.array(actions))[0] for env in (sure, plain)]
    assert_same(seen[0][:, :3], seen[1][:, :3], "next prompt")
    assert len(from_core(TextCore(small_task(responder=Sure(everything(ends=True)), max_response_tokens=9), 1), prompts=[0]).observations)
    with pytest.raises(ValueError, match="draws random numbers"):
        from_core(TextCore(small_task(responder=Says(everything()), max_response_tokens=9), 1), prompts=[0])


def test_the_suite_lists_what_is_known() -> None:
    done = json.loads(listed())
    rows = {row["id"]: row for row in done}
    assert rows["textgym/SlotFilling-v0"]["best"] == SlotFilling().best_return()
    assert rows["textgym/SlotFilling-v0"]["random"] == SlotFilling().random_return()
    assert rows["textgym/SlotFilling-v0"]["question"] == "Does it learn to ask before it acts?"
    assert rows["textgym/GuessNumber-v0"]["question"] == "Does it learn to ask what halves its ignorance?"
    assert 0 < rows["textgym/GuessNumber-v0"]["random"] < rows["textgym/GuessNumber-v0"]["best"] < 1


def listed() -> str:
    import contextlib
    import io

    from textgym.__main__ import main

    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["list", "--json"]) == 0
    return out.getvalue()


def test_the_package_is_registered() -> None:
    assert textgym.__version__
    assert {"textgym/SlotFilling-v0", "textgym/GuessNumber-v0"} <= set(gym.registry)
