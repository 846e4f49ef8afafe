# Two commands do everything on a fresh machine: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
WORKSPACE ?= .demo
TARGET ?= cpu
TAG ?= limaml:dev
IMAGE_EXTRAS := experiment monitoring online pipelines serve tracking training validation
export GX_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help install servers demo test test-heavy test-docker test-cluster image lint bench generate lock clean

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

# One process more than the two cores the suite is timed on: tests that wait for servers and killed processes leave a quarter idle.
test: lint servers ## Linters, types, import contract and the default tests
	$(BIN)/python -m pytest -n 3

test-heavy: install servers ## The tests marked heavy: minutes long or memory hungry
	$(BIN)/python -m pytest -m heavy

test-docker: install ## The tests that build and run the image, where a Docker daemon is
	$(BIN)/python -m pytest -m docker

test-cluster: install ## The tests on the cluster of KUBECONFIG, with the image LIMAML_TEST_IMAGE; see docs/cluster_tests.md
	$(BIN)/python -m pytest -m cluster tests/cluster

image: ## Build the image with what this machine's pip knows of indexes and authorities: make image TARGET=gpu TAG=limaml:gpu
	$(PYTHON) infra/images/build.py --target $(TARGET) --tag $(TAG)

lint: install ## ruff, pyright and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --warnings

bench: install ## Benchmarks: ratios against peers and floors in the same run
	$(BIN)/python -m benchmarks

generate: install ## Write what follows from other files: the dashboards, the chart's schema, README and files
	$(BIN)/python -m monitoring.dashboards.build
	$(BIN)/python -m charts.generate

# What torch's CUDA build would bring is left to whichever build of torch the machine installs. The image's own lock holds
# the same versions without what only development needs; what CUDA's build brings there is in a lock beside it.
lock: install ## Resolve pyproject.toml into requirements.lock and the image's locks again (torch stays beside the first)
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --python-version 3.11 --no-emit-package torch \
	  --no-header --no-annotate --output-file requirements.lock
	sed -i -E '/^(cuda|nvidia)-|^triton==/d' requirements.lock
	env -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet pyproject.toml $(IMAGE_EXTRAS:%=--extra %) --python-version 3.11 \
	  --constraint requirements.lock --no-header --no-annotate --output-file infra/images/requirements-gpu.lock
	grep -vE '^(cuda|nvidia)-|^(torch|triton)==' infra/images/requirements-gpu.lock > infra/images/requirements.lock
	sed -i -nE '/^(cuda|nvidia)-|^(torch|triton)==/p' infra/images/requirements-gpu.lock

clean: ## Remove the virtual environment and the demo's workspace
	rm -rf .venv .demo
