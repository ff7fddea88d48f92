# Everything sets itself up: the first target run makes .venv, which needs Python 3.11+ and nothing else.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
CANDIDATES := python3.13 python3.12 python3.11 python3 python

# one thread a process: pytest runs a process per core, and torch would start as many threads in each
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench soak clean

help:
	@echo "make setup   make .venv and install kinetext in it"
	@echo "make demo    generate sixteen clips, read them back, write kinetext-demo/index.html"
	@echo "make test    run the tests"
	@echo "make check   lint, formatting, types"
	@echo "make format  format the code and fix what the linter can"
	@echo "make bench   measure start-up and the training loop"
	@echo "make soak    open clips ten thousand times, and read mutated ones for MINUTES=5"
	@echo "make clean   remove caches and build outputs (not .venv)"

setup: $(STAMP)

# A candidate may exist and not run (a pyenv shim, say), or lack venv (Debian packs it apart): try each.
$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		found=""; bare=""; \
		for name in $(PYTHON) $(CANDIDATES); do \
			"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
			if "$$name" -c 'import ensurepip, venv' >/dev/null 2>&1; then found="$$name"; break; fi; \
			bare="$${bare:-$$name}"; \
		done; \
		if [ -z "$$found" ] && [ -n "$$bare" ]; then \
			version=$$("$$bare" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
			echo "kinetext: $$bare has no venv module; install it (Debian, Ubuntu: apt install python$$version-venv)" >&2; \
			exit 2; \
		fi; \
		if [ -z "$$found" ]; then \
			echo "kinetext: no Python 3.11 or newer found (tried: $(strip $(PYTHON) $(CANDIDATES))); install one, or run: make PYTHON=/path/to/python ..." >&2; \
			exit 2; \
		fi; \
		echo "Making $(VENV) with $$("$$found" --version) ($$found)"; \
		rm -rf $(VENV) && "$$found" -m venv $(VENV) || exit 2; \
	fi
	@echo "Installing kinetext in $(VENV): a few minutes the first time, most of it PyTorch"
	@$(BIN)/python -m pip install --quiet --no-input --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/kinetext demo

test: $(STAMP)
	@$(TEST_ENV) $(BIN)/python -m pytest -n logical --maxprocesses 8 $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP)
	@$(BIN)/python benchmarks/startup.py
	@$(BIN)/python benchmarks/loop.py

soak: $(STAMP)
	@$(BIN)/python benchmarks/soak_reading.py
	@$(BIN)/python benchmarks/fuzz_reading.py --minutes $(or $(MINUTES),5)

clean:
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
