"""What the best policy earns on other people's tabular environments, exactly: the oracle on their own tables, and a table for Blackjack, which has none.

Axis legend: S states, A actions.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from textgym import oracle

CARDS = {card: (4 if card == 10 else 1) / 13 for card in range(1, 11)}  # an endless deck: ace, 2 to 9, and four kinds of ten
Hand = tuple[int, bool]  # its sum, with an ace as 11 where that does not burst it, and whether one is
Outcome = tuple[float, int, float, bool]  # probability, next state, reward, terminated


def best_return(id: str, horizon: int) -> float:
    """Return the best expected undiscounted return of an episode of at most `horizon` steps, where the environment keeps a table `P`."""
    problem = oracle.from_table(gym.make(id))
    return float(problem.start @ oracle.solve(problem, gamma=1.0, horizon=horizon).v[0])


def best_blackjack() -> float:
    """Return the best expected return of Blackjack-v1 as it comes (no bonus for a natural; Sutton & Barto 2018, example 5.1)."""
    table, start = blackjack()
    problem = oracle.from_table(table, start=start)
    return float(problem.start @ oracle.solve(problem, gamma=1.0).v)


def drawn(hand: Hand, card: int) -> Hand:
    """Return a hand with one card more; a sum above 21 is burst."""
    total, soft = hand[0] + card, hand[1]
    if card == 1 and not soft and total + 10 <= 21:
        return total + 10, True
    return (total - 10, False) if soft and total > 21 else (total, soft)


def blackjack() -> tuple[dict[int, dict[int, list[Outcome]]], np.ndarray]:
    """Return Blackjack's table, as Gymnasium's toy text keeps them, and where episodes begin [S]; action 0 sticks, 1 hits."""
    hands = [(total, soft) for total in range(2, 22) for soft in (False, True)]
    number = {(hand, shown): i for i, (hand, shown) in enumerate((hand, shown) for hand in hands for shown in CARDS)}
    table: dict[int, dict[int, list[Outcome]]] = {}
    for (hand, shown), state in number.items():
        sticks = [(chance, state, float(np.sign(hand[0] - dealt)), True) for dealt, chance in dealer(shown).items()]
        hits: list[Outcome] = []
        for card, chance in CARDS.items():
            after = drawn(hand, card)
            hits.append((chance, state, -1.0, True) if after[0] > 21 else (chance, number[after, shown], 0.0, False))
        table[state] = {0: sticks, 1: hits}
    start = np.zeros(len(number))
    for first, p in CARDS.items():
        for second, q in CARDS.items():
            for shown, r in CARDS.items():
                start[number[drawn(drawn((0, False), first), second), shown]] += p * q * r
    return table, start


def dealer(shown: int) -> dict[int, float]:
    """Return what the dealer ends with, 0 where the hand bursts, and with which probability: cards are drawn below 17."""
    ends: dict[int, float] = {}
    hands: list[tuple[Hand, float]] = [(drawn((0, False), shown), 1.0)]
    hands = [(drawn(hand, card), chance * p) for hand, chance in hands for card, p in CARDS.items()]
    while hands:
        hand, chance = hands.pop()
        if hand[0] < 17:
            hands += [(drawn(hand, card), chance * p) for card, p in CARDS.items()]
        else:
            end = hand[0] if hand[0] <= 21 else 0
            ends[end] = ends.get(end, 0.0) + chance
    return ends
