"""What each constraint allows, by example and against a plain reading of its definition; its errors; the registry."""

from __future__ import annotations

import json
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import SmallCore, small_task

from textgym import GymEnv, constraints
from textgym.constraints import All, AllowList, Automaton, BannedWords, InGrammar, MinLength, NextTokens, NoRepeat, film_grammar
from textgym.episodes import TextCore
from textgym.film_reviews import film_reviews
from textgym.grammar import Grammar, Rule
from textgym.task import Constraint, Prefixes
from textgym.tokenizers import CharTokenizer, WordTokenizer

pytestmark = pytest.mark.core

WORDS = ("<eos>", "a", "b", "c", "d", "e")  # of the small task, whose prompt 2 is "a b c"
DOGS = {"": {"a": "one"}, "one": {"b": "two"}, "two": {"b": "two", "c": "end"}, "end": {}}  # a b+ c


def env_of(constraint: Any, **changes: Any) -> GymEnv:
    return GymEnv(SmallCore(constraint=constraints.make(constraint), **changes))


def legal(env: GymEnv) -> str:
    """Return the words that are allowed now, EOS as a dot."""
    return "".join("." if i == 0 else WORDS[i] for i in np.flatnonzero(env.action_masks()))


def walk(env: GymEnv, text: str, prompt: int = 2) -> list[str]:
    """Return what is allowed before each word of a text, and behind it."""
    _, info = env.reset(options={"prompt": prompt})
    found = [legal(env)]
    assert np.array_equal(info["action_mask"], env.action_masks())
    for word in text.split():
        info = env.step(WORDS.index(word))[4]
        assert np.array_equal(info["action_mask"], env.action_masks())
        found.append(legal(env))
    return found


class Forgiving(CharTokenizer):
    """A tokenizer that takes what it does not know for its first token."""

    def encode(self, text: str) -> list[int]:
        return [super(Forgiving, self).encode(letter)[0] if letter in "abc" else 0 for letter in text]


class TestLists:
    def test_an_allow_list_allows_its_words_and_the_end(self) -> None:
        assert walk(env_of(AllowList(["d", "b"])), "b d") == [".bd", ".bd", ".bd"]

    def test_where_a_text_is_over_nothing_is_asked(self) -> None:
        env = env_of(AllowList(["d", "b"]))
        env.reset(seed=0)
        _, _, terminated, _, info = env.step(0)
        assert terminated
        assert info["action_mask"].all()
        assert info["action_mask"].dtype == np.int8

    def test_banned_words(self) -> None:
        assert walk(env_of(BannedWords(["a"])), "b c") == [".bcde"] * 3

    @pytest.mark.parametrize(
        ("constraint", "message"),
        [
            (AllowList(["dd"]), "'dd' is not among the tokenizer's 6 words; the nearest is 'd'"),
            (BannedWords(["a", "Zebra"]), r"does not know \['Zebra'\], 1 of the 2 words"),
            (BannedWords(["a", "a b"]), r"the phrases \['a b'\] cannot be banned"),
            (BannedWords(["<eos>"]), "to forbid early ends use MinLength"),
        ],
    )
    def test_errors(self, constraint: Constraint, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            env_of(constraint)

    def test_no_list_at_all(self) -> None:
        with pytest.raises(TypeError, match="a list of words, not the one text 'bad'"):
            BannedWords("bad")
        with pytest.raises(ValueError, match="at least one word"):
            AllowList([])

    def test_an_unknown_word_is_not_taken_for_the_one_that_stands_for_all(self) -> None:
        with pytest.raises(ValueError, match="'zebra' is not among"):
            env_of(AllowList(["zebra"]), tokenizer=WordTokenizer(WORDS, unk="<unk>"))
        with pytest.raises(ValueError, match="Automaton: 'zebra' is not among"):
            env_of(Automaton({"": {"zebra": ""}}, {""}), tokenizer=WordTokenizer(WORDS, unk="<unk>"))

    @pytest.mark.parametrize("constraint", [AllowList(["q"]), Automaton({0: {"q": 0}}, {0})])
    def test_nor_by_a_tokenizer_without_a_list_of_words(self, constraint: Constraint) -> None:
        with pytest.raises(ValueError, match=r"does not know 'q': it reads \[0\], which is 'a'"):
            constraint.rules(Forgiving("abc"), 1, 5)


class TestCounts:
    def test_no_repeat_of_words_and_of_pairs(self) -> None:
        assert walk(env_of(NoRepeat(1)), "d", prompt=4) == [".abde", ".abe"]  # the prompt is "c"
        assert walk(env_of(NoRepeat(2)), "a d a") == [".abcde", ".acde", ".abcde", ".ace"]  # after "a b c"

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 12])
    def test_no_repeat_is_what_its_definition_says(self, n: int) -> None:
        env = env_of(NoRepeat(n), max_new_tokens=6, forbidden_ends=False)
        random = np.random.default_rng(n)
        for _ in range(60):
            observation, _ = env.reset(seed=int(random.integers(1000)))
            over = False
            while not over:
                text = [i for i in observation.tolist() if i != 6]
                grams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
                expected = [n > len(text) + 1 or (*text[len(text) + 1 - n :], word) not in grams for word in range(6)]
                assert env.action_masks().tolist() == expected
                observation, _, over, _, _ = env.step(int(random.integers(1, 6)))

    def test_where_no_word_is_left_the_prefix_is_shown(self) -> None:
        env = env_of(All(NoRepeat(1), MinLength(3)))
        env.reset(options={"prompt": 2})  # "a b c"
        env.step(4)
        with pytest.raises(ValueError, match=r"no token at all after 'a b c \| d e  \[2/5 tokens\]'"):
            env.step(5)

    def test_min_length(self) -> None:
        assert walk(env_of(MinLength(2)), "a a") == ["abcde", "abcde", ".abcde"]
        assert walk(env_of(MinLength(5)), "a a a a") == ["abcde"] * 5

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="more tokens than max_new_tokens=5"):
            env_of(MinLength(6))
        for kind in (MinLength, NoRepeat):
            with pytest.raises(ValueError, match="n=0 must be 1 or more"):
                kind(0)
            for wrong in (1.5, "2", None):
                with pytest.raises(TypeError, match=f"n={wrong!r} must be a whole number"):
                    kind(wrong)
            assert kind(np.int64(2)) == kind(2)


class TestAutomaton:
    def test_it_is_followed_and_finished_within_the_budget(self) -> None:
        env = env_of(Automaton(DOGS, {"end"}))
        assert walk(env, "a b b c") == ["a", "b", "bc", "c", "."]  # with two tokens left, only "c" and the end fit
        assert walk(env_of(Automaton(DOGS, {"end"}, finish=False)), "a b b b") == ["a", "b", "bc", "bc", "bc"]

    def test_a_forbidden_token_leaves_the_state_where_it_was(self) -> None:
        env = env_of(Automaton(DOGS, {"end"}), forbidden_ends=False, max_new_tokens=6)
        assert walk(env, "a e b") == ["a", "b", "b", "bc"]
        assert env.step(0)[4]["forbidden"] == 2  # "e", and an end that came too early

    def test_a_token_that_comes_too_late_to_be_finished_is_not_written_either(self) -> None:
        ways = {"": {"a": "end", "b": "far"}, "far": {"c": "near"}, "near": {"d": "end"}, "end": {}}
        env = env_of(Automaton(ways, {"end"}), forbidden_ends=False)
        assert walk(env, "e e b a") == ["ab", "ab", "a", "a", "."]

    def test_a_wasted_budget_leaves_what_could_be_finished_with_more(self) -> None:
        env = env_of(Automaton(DOGS, {"end"}), forbidden_ends=False)
        assert walk(env, "a e e b") == ["a", "b", "b", "b", "bc"]

    def test_as_an_array(self) -> None:
        table = np.full((3, 6), -1)
        table[0, 1], table[1, 2], table[1, 1] = 1, 2, 1
        env = env_of(Automaton(table, np.array([False, False, True])))
        assert walk(env, "a a b") == ["a", "ab", "ab", "."]
        table[0, 1] = -1  # the caller's array is his own
        assert walk(env, "a") == ["a", "ab"]

    @pytest.mark.parametrize(
        ("next_state", "accepting", "message"),
        [
            ({"": {"a": "x"}}, {""}, "State '' leads to 'x', which is none of the states"),
            ({"": {"q": ""}}, {""}, "'q' is not among the tokenizer's 6 words"),
            ({"": {"a b": ""}}, {""}, "spells 'a b' with 2 tokens"),
            ({"": {"a": ""}}, {"end"}, "accepting names 'end'"),
            ({"": {"a": ""}}, (), "accepts no text at all"),
            ({}, (), "at least one state"),
            (np.zeros((2, 5), dtype=int), {0}, "with V = 6, got int64 of shape"),
            (np.full((2, 6), 2), {0}, r"must lie in \[0, 2\)"),
            (np.zeros((1, 6), dtype=int), np.ones(2, dtype=bool), "one flag for each of the 1 states"),
            ({i: {"a": i + 1} for i in range(5)} | {5: {}}, {5}, "the shortest takes 6, EOS included. Give max_new_tokens=6"),
        ],
    )
    def test_errors(self, next_state: Any, accepting: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            env_of(Automaton(next_state, accepting))


class TestGrammar:
    GRAMMAR = Grammar.from_rules({"s": [Rule(("a", "b"), 1.0, "t")], "t": [Rule(("c",), 0.5, "s"), Rule(("d", "zebra"), 0.3, "u")], "u": []})

    def test_the_prompt_is_walked_first(self) -> None:
        env = env_of(InGrammar(self.GRAMMAR), max_new_tokens=4)
        assert walk(env, "c b d", prompt=0) == [".cd", "ab", ".d", "."]  # "a"; after "c b" another "c" could not be finished

    def test_a_prompt_outside_is_an_error_that_shows_it(self) -> None:
        with pytest.raises(ValueError, match="The prompt 'a b c' has left the grammar"):
            env_of(InGrammar(self.GRAMMAR)).reset(options={"prompt": 2})

    def test_a_prompt_that_cannot_be_finished_is_an_error_that_shows_it(self) -> None:
        chain = {str(i): [Rule(("a",), 1.0, str(i + 1))] for i in range(5)} | {"5": []}
        with pytest.raises(ValueError, match=r"After the prompt 'a' the automaton accepts no text of 4 tokens or fewer \(EOS included\); it needs 5"):
            env_of(InGrammar(Grammar.from_rules(chain)), max_new_tokens=4).reset(options={"prompt": 0})

    def test_a_vocabulary_without_its_words(self) -> None:
        grammar = Grammar.from_rules({"s": [Rule(("zebra", "yak"), 1.0, "t")], "t": []})
        with pytest.raises(ValueError, match=r"cannot spell any text of the grammar: it lacks 2 of its words, \['zebra', 'yak'\]"):
            env_of(InGrammar(grammar))

    def test_film_reviews_are_well_formed_and_whole(self) -> None:
        env, grammar = gym.make("TextGen-v0", constraint="film_grammar", info_text=True).unwrapped, film_reviews()
        random = np.random.default_rng(0)
        for seed in range(100):
            env.reset(seed=seed)
            over = False
            while not over:
                _, _, over, _, info = env.step(int(random.choice(np.flatnonzero(env.action_masks()))))
            assert info["forbidden"] == 0
            assert grammar.accepts(env.core.completions(np.array([0])).full_texts[0])


class TestNextTokens:
    TOKENIZER = WordTokenizer(WORDS)

    def test_counted_from_texts(self) -> None:
        table = NextTokens.from_texts(["a b a b", "a c"], self.TOKENIZER, 2)
        assert table.ids[[1, 2]].tolist() == [[2, 3], [0, 1]]  # a: b twice, c once; b: the end and a, once each
        assert walk(env_of(table), "b a", prompt=0) == ["bc", ".a", "bc"]

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"k=7 must lie in \[1, 6\]"):
            NextTokens.from_texts(["a"], self.TOKENIZER, 7)
        with pytest.raises(ValueError, match="rows for 2 ids, the tokenizer has 6"):
            env_of(NextTokens(np.zeros((2, 1), dtype=int)))
        with pytest.raises(ValueError, match=r"integers \[V, K\] in \[0, V\]"):
            NextTokens(np.full((2, 1), 3))

    def test_a_row_without_successors_is_an_error_that_shows_the_prefix(self) -> None:
        ids = np.full((6, 1), 6)
        ids[1] = 2
        env = env_of(NextTokens(ids))
        env.reset(options={"prompt": 0})
        with pytest.raises(ValueError, match=r"no token at all after 'a \| b"):
            env.step(2)


class TestAll:
    def test_and(self) -> None:
        env = env_of([{"name": "no_repeat", "n": 1}, {"name": "min_length", "n": 2}, {"name": "allow_list", "words": ["b", "d", "e"]}])
        assert walk(env, "d b", prompt=0) == ["bde", "be", ".e"]

    def test_automata_side_by_side(self) -> None:
        no_bb = Automaton({0: {"a": 0, "b": 1, "c": 0}, 1: {"c": 0}}, {0, 1})
        assert walk(env_of(All(Automaton(DOGS, {"end"}), no_bb)), "a b c") == ["a", "b", "c", "."]

    def test_a_minimum_keeps_an_automaton_from_ending_too_early(self) -> None:
        ways = {0: {"a": 1, "b": 2}, 1: {}, 2: {"c": 2, "d": 1}}  # a | b c* d
        for finish in (True, False):
            for constraint in (All(Automaton(ways, {1}, finish), MinLength(3)), All(All(MinLength(2), MinLength(3)), Automaton(ways, {1}, finish))):
                assert walk(env_of(constraint), "b c d")[:3] == ["b", "c", "cd"]
                assert walk(env_of(constraint), "b c d")[3] == "."
        assert walk(env_of(All(Automaton(ways, {1}), MinLength(3))), "b c c d") == ["b", "c", "cd", "d", "."]

    @pytest.mark.parametrize("least", [1, 2, 4, 6, 8])
    def test_a_minimum_is_planned_for_as_enumeration_tells(self, least: int) -> None:
        random, budget = np.random.default_rng(least), 9
        for _ in range(20):
            table = np.where(random.random((5, 6)) < 0.3, random.integers(5, size=(5, 6)), -1)
            accepting = random.random(5) < 0.4
            table[:, 0] = -1
            ends = [{s} for s in range(5)]  # states behind exactly t tokens from s
            can = np.zeros((budget, 5), dtype=bool)
            for t in range(budget):
                can[t] = [any(accepting[s] for s in end) for end in ends]
                ends = [{int(n) for s in end for n in table[s] if n >= 0} for end in ends]
            constraint = All(Automaton(table, accepting), MinLength(least))
            if not can[least:, 0].any():
                with pytest.raises(ValueError, match="accepts no text"):
                    constraint.rules(WordTokenizer(WORDS), 1, budget)
                continue
            env, state = env_of(constraint, max_new_tokens=budget), 0
            env.reset(options={"prompt": 0})
            for t in range(budget):
                expected = [n >= 0 and bool(can[max(least - t - 1, 0) : budget - t - 1, n].any()) for n in table[state]]
                expected[0] = bool(accepting[state]) and t >= least
                assert env.action_masks().tolist() == expected
                token = int(random.choice(np.flatnonzero(expected)))
                env.step(token)
                if token == 0:
                    break
                state = int(table[state, token])

    def test_a_wasted_budget_does_not_end_in_a_dead_end(self) -> None:
        ways = {0: {"a": 1}, 1: {"b": 2}, 2: {"c": 3}, 3: {}}
        env = env_of(All(Automaton(ways, {3}), MinLength(3)), forbidden_ends=False, max_new_tokens=4)
        assert walk(env, "e a b") == ["a", "a", "b", "c"]

    def test_film_reviews_of_some_length(self) -> None:
        env = gym.make("TextGen-v0", constraint=["film_grammar", MinLength(20)], max_new_tokens=24, info_text=True).unwrapped
        random = np.random.default_rng(0)
        for seed in range(40):
            env.reset(seed=seed)
            over, written = False, 0
            while not over:
                _, _, over, _, info = env.step(int(random.choice(np.flatnonzero(env.action_masks()))))
                written += 1
            assert info["forbidden"] == 0
            assert written > 20, "EOS comes behind them"
            assert film_reviews().accepts(env.core.completions(np.array([0])).full_texts[0])

    def test_a_prompt_that_leaves_no_text_long_enough(self) -> None:
        grammar = Grammar.from_rules({"s": [Rule(("a",), 0.5, "t"), Rule(("b",), 0.5, "u")], "t": [Rule(("c",), 1.0, "u")], "u": []})
        with pytest.raises(ValueError, match="After the prompt 'a' the automaton accepts no text of at least 2 tokens within 5"):
            env_of(All(InGrammar(grammar), MinLength(2))).reset(options={"prompt": 0})

    def test_no_rows_are_begun_too(self) -> None:
        nobody = Prefixes(np.zeros((0, 8), dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 3)
        abc = WordTokenizer(WORDS)
        dogs, inside = Automaton(DOGS, {"end"}), InGrammar(TestGrammar.GRAMMAR)
        for constraint in (dogs, inside, All(inside, MinLength(2)), All(dogs, NoRepeat(1), All(dogs, MinLength(3))), NoRepeat(2), AllowList(["a"])):
            rules = constraint.rules(abc, 3, 5)
            memory = rules.begin(nobody)
            assert memory.shape[0] == 0
            assert rules.follow(memory, np.zeros(0, dtype=np.int64)).shape == memory.shape
            rules.allowed(memory, nobody)

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="at least one constraint"):
            All()
        with pytest.raises(TypeError, match="is no constraint object"):
            All("no_repeat")


class TestRegistry:
    def test_names_mappings_lists_objects_and_none(self) -> None:
        assert constraints.make(None) is None
        assert constraints.make({"name": "no_repeat", "n": 3}) == NoRepeat(3)
        assert constraints.make([{"name": "banned_words", "words": ["bad"]}, MinLength(2)]) == All(BannedWords(["bad"]), MinLength(2))
        assert constraints.make("film_grammar") == film_grammar()
        assert constraints.names() == sorted(
            ["allow_list", "automaton", "banned_words", "film_grammar", "min_length", "no_repeat", "pattern", "top_k", "top_p"]
        )

    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            ("film_gramar", ValueError, "did you mean 'film_grammar'"),
            ({"n": 3}, ValueError, "needs a 'name'"),
            ({"name": "no_repeat", "m": 3}, TypeError, "could not be built from {'m': 3}"),
            (NoRepeat, TypeError, "NoRepeat is a class"),
            ({"name": 5}, ValueError, "There is no constraint 5"),
            (3, TypeError, "int is none of these"),
        ],
    )
    def test_errors(self, given: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            constraints.make(given)

    def test_a_name_is_given_once(self) -> None:
        with pytest.raises(ValueError, match="registered already"):
            constraints.register("no_repeat")(NoRepeat)

    def test_the_spec_stays_json(self) -> None:
        env = gym.make("TextGen-v0", constraint=["film_grammar", {"name": "no_repeat", "n": 4}])
        again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
        assert json.loads(env.spec.to_json())["kwargs"]["constraint"][1] == {"name": "no_repeat", "n": 4}
        assert np.array_equal(env.reset(seed=3)[1]["action_mask"], again.reset(seed=3)[1]["action_mask"])

    def test_constraints_are_values(self) -> None:
        for constraint in (AllowList(["a"]), BannedWords(["a"]), NoRepeat(2), MinLength(2), film_grammar(), All(NoRepeat(2), MinLength(1))):
            assert pickle.loads(pickle.dumps(constraint)) == constraint
            assert hash(pickle.loads(pickle.dumps(constraint))) == hash(constraint)


def test_penalty_and_ends_are_the_tasks_to_say() -> None:
    env = env_of(BannedWords(["e"]), forbidden_penalty=0.5)
    env.reset(options={"prompt": 0})
    _, reward, terminated, _, info = env.step(5)
    assert (reward, terminated, info["forbidden"]) == (-0.5, True, 1)
    env = GymEnv(lambda num_rows: TextCore(small_task(constraint=BannedWords(["e"]), forbidden_ends=False, info_mask=False), num_rows))
    assert env.reset(seed=0)[1] == {}
    _, reward, terminated, _, info = env.step(5)
    assert (reward, terminated, info) == (-1.0, False, {})
