# Each target sets itself up in .venv; a second run starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test check wheel bench clean

quickstart: $(VENV)/.ready
	@$(BIN)/hsae quickstart

test: check wheel
	$(BIN)/python -m pytest

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel, built from the sdist, unpacked and tested from a folder outside the checkout.
wheel: $(VENV)/.ready-dev
	rm -rf dist
	$(BIN)/python -m build --quiet --no-isolation
	$(BIN)/python tests/wheel_check.py dist

# Every benchmark, one after another: minutes, and 12 GB of memory for the largest.
bench: $(VENV)/.ready-dev
	@set -e; for script in tests/bench/*.py; do OMP_WAIT_POLICY=PASSIVE $(BIN)/python $$script; done

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.ready

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache
