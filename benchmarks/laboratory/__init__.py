"""The laboratory: estimators of the advantage measured against the exact one, on problems small enough to be known.

    problems    four problems with an exact oracle, and the tables that their episodes are drawn from
    policies    fixed policies, and policies along training by the exact gradient; critics that are right, wrong, and know nothing
    sampling    thousands of episodes at once, as rollouts
    contestants which estimators there are, and what each of them is given to read
    measures    bias, variance, errors, signs and ranks of advantages; bias, variance, cosine and signal-to-noise of gradients
    sweeps      over lambda, n, batch size, group size, critic quality, horizon, reward noise and window length
    off_policy  V-trace and Retrace where another policy played
    learning    learning curves by estimator
    cost        seconds and environment steps
    facts       what is known of the estimators, as claims that the figures must bear out
    tables, plots

Everything is undiscounted (gamma = 1): the problems end by themselves, and the gradient of the expected return has one meaning.
Every random draw comes from a generator that is an argument; every figure is one number a replication, and replications are independent.
"""
