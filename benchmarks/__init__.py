"""Scripts that measure, run from a clone as `python -m benchmarks.<name>`; each number in the README has its command here."""
