# Two commands matter: `make demo` (a chat on this machine) and `make test` (everything CI runs).
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find runtime/flash_runtime/kernels -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)
NAME ?= demo
MANIFEST ?= examples/quickstart.yaml
PROMPT ?= What is the capital of France? Answer in one sentence.

.PHONY: help demo down test unit lint format types crds bench parity gpu-test control-plane clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1mmake %-14s\033[0m %s\n", $$1, $$2}'

# Two stamps: what a user needs, and what a developer needs on top. A changed pyproject or kernel source rebuilds.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"Python {v[0]}.{v[1]} found; Flashplane needs 3.11 or 3.12 (the server bundled for local mode needs numpy 1.x). Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.local-stamp: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	@echo "==> installing Flashplane into $(VENV) and building its native kernels (about a minute the first time)"
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[local]'
	@touch $@

$(VENV)/.dev-stamp: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	@echo "==> installing Flashplane with its test tools into $(VENV) and building its native kernels"
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.local-stamp $@

demo: $(VENV)/.local-stamp ## from nothing to a streamed answer at http://127.0.0.1:8080/v1
	@$(BIN)/flash up -f $(MANIFEST)
	@$(BIN)/flash chat --prompt "$(PROMPT)"

down: ## stop everything that the demo started
	@$(BIN)/flash down --all

test: lint control-plane ## lint, types, contracts, unit and integration tests: what CI runs
	$(BIN)/python -m pytest

unit: $(VENV)/.dev-stamp ## the tests that need nothing but Python (seconds)
	$(BIN)/python -m pytest --ignore tests/integration --ignore tests/parity

lint: $(VENV)/.dev-stamp ## ruff, mypy --strict, import contracts, generated CRDs and pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/flash crds --check
	$(BIN)/flash crds --docs --check
	$(BIN)/python charts/readme.py --check

format: $(VENV)/.dev-stamp ## format and fix what tools can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

crds: $(VENV)/.dev-stamp ## write crds/, docs/reference/ and the chart's table of values from their sources
	$(BIN)/flash crds
	$(BIN)/flash crds --docs
	$(BIN)/python charts/readme.py

control-plane: $(VENV)/.dev-stamp ## build etcd, kube-apiserver and kube-controller-manager once (needs Go)
	@if command -v go >/dev/null || [ -n "$$KUBEBUILDER_ASSETS" ] || [ "$$CI" = true ]; \
	then $(BIN)/python kind/hermetic/control_plane.py build; \
	else echo "no Go here: tests against a real Kubernetes API will be skipped"; fi

bench: $(VENV)/.dev-stamp ## one benchmark suite: make bench NAME=demo [QUICK=1]
	@echo "==> installing the peers of benchmarks/$(NAME) (built from source the first time: a few minutes)"
	$(BIN)/python -m pip install --disable-pip-version-check -r benchmarks/$(NAME)/requirements.txt
	QUICK=$(QUICK) $(BIN)/python benchmarks/$(NAME)/run.py

parity: ## compare live with transformers on the same weights (installs torch: several GB)
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --disable-pip-version-check -e '.[local,parity]' pytest pytest-asyncio pytest-timeout hypothesis
	.venv-parity/bin/python -m pytest tests/parity

gpu-test: ## the CUDA provider under triton-lang's interpreter; TRITON_INTERPRET=0 on a GPU (installs torch: several GB)
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --disable-pip-version-check -e '.[engine,gpu]' pytest pytest-asyncio pytest-timeout hypothesis
	.venv-gpu/bin/python -m pytest tests/runtime/cuda

clean: ## remove the virtual environments and build folders (downloads stay in the user's cache)
	rm -rf $(VENV) .venv-parity .venv-gpu build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
