# Two commands do everything on a fresh machine: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
WORKSPACE ?= .demo
export GX_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help install servers demo test test-heavy lint bench lock clean

help: ## Show what there is to run
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: .venv/installed ## Make .venv with every locked dependency (done by the others when needed)

# torch by plain pip, which knows where this machine's build comes from; everything else by uv, from the lock.
.venv/installed: pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv "$$(grep -oE 'torch==[0-9.]+' pyproject.toml)"
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --requirement requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

demo: install ## The whole chain on simulated pTap logs; or on your own: make demo DATA=log.parquet APP=kuairand
	@$(BIN)/limaml demo --workspace $(WORKSPACE) $(if $(DATA),--data $(DATA)) $(if $(APP),--app $(APP))

# The one real server the tests start that pip can't install.
servers:
	@command -v redis-server >/dev/null || { apt-get update -qq && apt-get install -y -qq redis-server >/dev/null; } \
	  || echo "redis-server is missing: the tests that need it are skipped; install it to run them"

test: lint servers ## Linters, types, import contract and the default tests
	$(BIN)/python -m pytest -n 2

test-heavy: install servers ## The tests marked heavy: minutes long or memory hungry
	$(BIN)/python -m pytest -m heavy

lint: install ## ruff, pyright and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --warnings

bench: install ## Benchmarks: ratios against peers and floors in the same run
	$(BIN)/python -m benchmarks

# What torch's CUDA build would bring is left to whichever build of torch the machine installs.
lock: install ## Resolve pyproject.toml into requirements.lock again (torch stays beside it)
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --python-version 3.11 --no-emit-package torch \
	  --no-header --no-annotate --output-file requirements.lock
	sed -i -E '/^(cuda|nvidia)-|^triton==/d' requirements.lock

clean: ## Remove the virtual environment and the demo's workspace
	rm -rf .venv .demo
