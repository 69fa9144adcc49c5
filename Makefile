PYTHON ?= python

.PHONY: check lint test slow demo

check: lint test

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy textgym agents benchmarks

test:
	$(PYTHON) -m pytest

slow:
	$(PYTHON) -m pytest -m slow --dist worksteal

demo:
	$(PYTHON) -m agents ppo
