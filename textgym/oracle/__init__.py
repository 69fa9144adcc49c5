"""Exact answers for problems that are small enough: what an estimator or an agent can be measured against.

    problem = from_table(gym.make("FrozenLake-v1"))  # any environment with a table P
    problem = from_core(TextCore(task, num_rows=1))  # any token task whose prefixes can be enumerated
    values = evaluate(problem, policy, gamma=0.99)   # values.v [S], values.q [S, A], values.a [S, A]
    best = solve(problem, gamma=0.99)                # best.v, best.q, best.actions

A policy is a callable on batches of observations that returns probabilities [B, A], or an array of them [S, A]. A torch model enters so:

    def policy(observations):
        with torch.no_grad():
            return model(torch.as_tensor(observations)).softmax(-1).numpy()

A problem that can be solved by hand: two states, worth 1 and 0; the action is the state to go to, and with probability e one slips into the other;
the reward is the worth of the state reached; nobody ever ends. A policy that wants the rich state with probability x is there next with probability
y = x (1 - e) + (1 - x) e, wherever it stands, so its rewards are independent coins, and

    V = y / (1 - gamma)                        Var[G] = y (1 - y) / (1 - gamma^2)
    A(s, rich) = (1 - x) (1 - 2 e)             d(rich) = P(s_0 = rich) + gamma y / (1 - gamma)
    V* = (1 - e) / (1 - gamma)  for e < 1/2    dJ / dlogit(s, rich) = d(s) x (1 - x) (1 - 2 e)

The package needs SciPy (`pip install scipy`), which is loaded when a problem is made, not on import.
"""

from .hidden import as_seen
from .optimum import Optimum, solve
from .prefixes import from_core
from .tables import Policy, Tabular, TooManyStates, finder, from_table, probabilities_of
from .values import Divergence, Values, evaluate, expected_return, kl, occupancy, policy_gradient, return_variance, variances

__all__ = [
    "Divergence",
    "Optimum",
    "Policy",
    "Tabular",
    "TooManyStates",
    "Values",
    "as_seen",
    "evaluate",
    "expected_return",
    "finder",
    "from_core",
    "from_table",
    "kl",
    "occupancy",
    "policy_gradient",
    "probabilities_of",
    "return_variance",
    "solve",
    "variances",
]
