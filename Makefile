# Everything runs in .venv, which the first target that needs it builds: with uv where there is
# one, else with Python's own venv and pip. Nothing has to be installed by hand.

VENV := .venv
BIN := $(VENV)/bin
# Newer than its two prerequisites exactly while the environment is up to date.
STAMP := $(VENV)/.set-up

# The first Python that is new enough. Another one: make PYTHON=/path/to/python3
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

# What `make search` and `make test` pass on, as in: make search ARGS="--samples 64"
ARGS ?=
# Test processes; each compiles with XLA, so more than there are cores is slower. A file has one of
# them: what its tests share is made once.
WORKERS ?= 2

# The ends of what is supported; uv fetches a Python that is not there.
OLDEST_PYTHON ?= 3.11
NEWEST_PYTHON ?= 3.13

# In an environment of its own: $(1) its name, $(2) the Python, $(3) what uv resolves to.
define test_versions
	uv venv --quiet --clear --python $(2) .venv-$(1)
	uv pip install --quiet --python .venv-$(1)/bin/python --resolution $(3) -e '.[dev]'
	.venv-$(1)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--doctest-modules nos_optax tests -m "not slow" $(ARGS)
endef

.DEFAULT_GOAL := help
.PHONY: help setup search test test-fast test-oldest test-newest lint format bench bench-gpu \
	package test-package docs constraints clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

setup: $(STAMP)  ## Build or update .venv (the other targets do it too)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@set -e; if command -v uv >/dev/null; then \
		test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); \
		uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
		test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@

search: $(STAMP)  ## Search for update rules; ARGS="--help" lists the options
	$(BIN)/python experiments/search.py $(ARGS)

test: $(STAMP)  ## Run every test and doctest
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--doctest-modules nos_optax tests --durations=60 $(ARGS)

test-fast: $(STAMP)  ## Run the tests and doctests that are not slow
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--doctest-modules nos_optax tests -m "not slow" $(ARGS)

test-oldest:  ## Run the fast tests on the lowest versions that pyproject.toml allows (needs uv)
	$(call test_versions,oldest,$(OLDEST_PYTHON),lowest-direct)

test-newest:  ## Run the fast tests on the newest versions of everything (needs uv)
	$(call test_versions,newest,$(NEWEST_PYTHON),highest)

lint: $(STAMP)  ## Check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/ty check

format: $(STAMP)  ## Format the code and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(STAMP)  ## Run every benchmark
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file; done

bench-gpu: $(STAMP)  ## Run the benchmark of a GPU, 13 minutes; ARGS="--part 1 --data-dir DIR" for CIFAR-10
	PYTHON=$(BIN)/python benchmarks/gpu/lease.sh $(ARGS)

package: $(STAMP)  ## Build the wheel and the source distribution into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation

test-package: package  ## Install the wheel into an empty environment, train, search and report with it
	rm -rf .venv-package
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/pip install --quiet dist/*.whl
	cd dist && ../.venv-package/bin/python -c "import nos_optax; nos_optax.powersign(0.1).init(1.0)"
	.venv-package/bin/pip install --quiet "$$(ls dist/*.whl)[search]"
	cd dist && ../.venv-package/bin/python -m nos_optax.search --task digits-mlp --samples 16 --batch-size 16 \
		--iterations 1 --strategy random --finalists 1 --final-seeds 2 --out run
	cd dist && ../.venv-package/bin/python -m nos_optax.report run

docs: $(STAMP)  ## Build the documentation's site into build/site/
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site
	@echo build/site/index.html

constraints:  ## Write constraints.txt anew from pyproject.toml (needs uv)
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-header \
		--output-file constraints.txt pyproject.toml

clean:  ## Remove caches and build outputs (not .venv, not runs/)
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find nos_optax tests experiments benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
