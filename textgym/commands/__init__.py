"""The commands of `python -m textgym`, one file each: each has a function that takes the parsed arguments, prints, and returns the exit code."""
