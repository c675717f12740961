# Every target makes its own environment; nothing but Python 3.11+, git and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
seeds ?= 1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install reproduce train test check format bench clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## make .venv with passk and the development tools

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $@

reproduce: install ## SFT, Pass@1, Pass@k and hybrid on the embedded task; table and report (seeds=3)
	$(BIN)/passk reproduce seeds=$(seeds)

train: install ## one run; args="regime=passk regime.k=4"
	$(BIN)/passk train $(args)

test: install ## every test
	$(BIN)/python -m pytest

check: install ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## speed and memory, against TRL in the same run; writes docs/benchmarks.md
	$(PIP) --editable '.[bench]'
	$(BIN)/python scripts/bench.py

clean: ## remove the environment and caches; outputs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
