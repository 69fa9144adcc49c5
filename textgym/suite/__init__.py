"""The named tasks: data, scorer, and the returns known for each."""
