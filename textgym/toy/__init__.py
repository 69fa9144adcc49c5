"""Small tasks whose exact values are known, so that an estimator or an agent can be measured against the truth."""
