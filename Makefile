# Two commands matter: `make demo` (a chat on this machine) and `make test` (everything CI runs).
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find runtime/flash_runtime/kernels -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)
NAME ?= demo
NODES ?= 3
MANIFEST ?= examples/quickstart.yaml
PROMPT ?= What is the capital of France? Answer in one sentence.

LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--constraint images/requirements/constraints.txt

.PHONY: help demo down test unit lint format types crds bench parity gpu-test control-plane cluster-programs images image-requirements e2e-images e2e e2e-full cluster cluster-demo cluster-down policies traffic clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1mmake %-14s\033[0m %s\n", $$1, $$2}'

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

test: lint control-plane cluster-programs e2e-images ## lint, types, contracts, unit, integration and end-to-end tests: what CI runs
	$(BIN)/python -m pytest

unit: $(VENV)/.dev-stamp ## the tests that need nothing but Python (seconds)
	$(BIN)/python -m pytest --ignore tests/integration --ignore tests/cluster --ignore tests/e2e --ignore tests/parity

lint: $(VENV)/.dev-stamp ## ruff, mypy --strict, import contracts, generated CRDs and pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/flash crds --check
	$(BIN)/flash crds --docs --check
	$(BIN)/python charts/readme.py --check
	$(BIN)/python charts/dashboard.py --check

format: $(VENV)/.dev-stamp ## format and fix what tools can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

crds: $(VENV)/.dev-stamp ## write crds/, docs/reference/ and the chart's table of values from their sources
	$(BIN)/flash crds
	$(BIN)/flash crds --docs
	$(BIN)/python charts/readme.py
	$(BIN)/python charts/dashboard.py

control-plane: $(VENV)/.dev-stamp ## build etcd, kube-apiserver and kube-controller-manager once (needs Go)
	@if command -v go >/dev/null || [ -n "$$KUBEBUILDER_ASSETS" ] || [ "$$CI" = true ]; \
	then $(BIN)/python kind/hermetic/control_plane.py build; \
	else echo "no Go here: tests against a real Kubernetes API will be skipped"; fi

cluster-programs: control-plane
	@if command -v go >/dev/null || [ "$$CI" = true ]; \
	then $(BIN)/python kind/hermetic/cluster.py build; \
	else echo "no Go here: tests on a cluster with nodes will be skipped"; fi

images: $(VENV)/.dev-stamp ## operator, gateway and engine as container images, with Docker, podman or buildah
	@$(BIN)/python images/build.py $(IMAGES)

image-requirements: $(VENV)/.dev-stamp ## pin the packages of the images anew
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK) pyproject.toml --extra operator -o images/requirements/operator.txt
	$(LOCK) pyproject.toml images/requirements/fetching.in --extra gateway --extra tracing --extra stores -o images/requirements/gateway.txt
	$(LOCK) pyproject.toml images/requirements/fetching.in --extra engine --extra stores -o images/requirements/engine.txt
	$(LOCK) images/requirements/build.in -o images/requirements/build.txt

e2e-images: $(VENV)/.dev-stamp
	@if [ "$$CI" = true ] || $(BIN)/python images/image_builders.py; \
	then $(BIN)/python images/build.py --cpu --archive; \
	else echo "nothing here builds images: end-to-end tests will be skipped"; fi

e2e: cluster-programs e2e-images ## the demo's manifest on a cluster with our images and chart, phases timed (needs root and Go)
	$(BIN)/python -m pytest -s tests/e2e

e2e-full: cluster-programs e2e-images ## the same on three nodes, with draft pods, and everything done to pods under traffic
	FULL=1 $(BIN)/python -m pytest -s tests/e2e

cluster: $(VENV)/.dev-stamp ## a Kubernetes cluster whose pods run, without Docker: make cluster [NODES=3] (needs root and Go)
	@$(BIN)/python kind/hermetic/cluster.py up --nodes $(NODES) --metrics --crds crds

cluster-demo: cluster-programs e2e-images ## from nothing to a streamed answer on a Kubernetes cluster of one's own, without Docker (needs root and Go)
	@kind/hermetic/demo.sh $(MANIFEST)

cluster-down: $(VENV)/.dev-stamp ## stop the cluster; nothing is left of it
	@$(BIN)/python kind/hermetic/cluster.py down

bench: $(VENV)/.dev-stamp ## one benchmark suite: make bench NAME=demo [QUICK=1]
	@echo "==> installing the peers of benchmarks/$(NAME) (built from source the first time: a few minutes)"
	$(BIN)/python -m pip install --disable-pip-version-check -r benchmarks/$(NAME)/requirements.txt
	QUICK=$(QUICK) $(BIN)/python benchmarks/$(NAME)/run.py

parity: ## compare live with transformers on the same weights, and train toy models (installs torch: several GB)
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --disable-pip-version-check -e '.[local,parity]' pytest pytest-asyncio pytest-timeout hypothesis
	.venv-parity/bin/python -m pytest tests/parity tests/runtime/training

gpu-test: ## the CUDA provider under triton-lang's interpreter; TRITON_INTERPRET=0 on a GPU (installs torch: several GB)
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --disable-pip-version-check -e '.[engine,gpu]' pytest pytest-asyncio pytest-timeout hypothesis
	.venv-gpu/bin/python -m pytest tests/runtime/cuda

policies: $(VENV)/.dev-stamp ## checkov over the chart and over what the operator makes of the examples (installs checkov: 300 MB)
	@test -x .venv-checkov/bin/checkov || { $(PYTHON) -m venv .venv-checkov && \
	  .venv-checkov/bin/python -m pip install --disable-pip-version-check -r tests/charts/requirements-checkov.txt; }
	@mkdir -p build/policies
	@$(BIN)/python kind/hermetic/hermetic_helm.py template flashplane charts/flashplane -n flashplane-system > build/policies/chart.yaml
	@for file in quickstart shared-model complete draft; do $(BIN)/flash plan -n ai -f examples/$$file.yaml > build/policies/$$file.yaml; done
	.venv-checkov/bin/checkov --config-file tests/charts/checkov.yaml --directory build/policies

traffic: cluster-programs e2e-images ## 2,000 and more streams while pods on a cluster, then local mode's processes, are replaced, killed and scaled
	FULL=1 $(BIN)/python -m pytest -s tests/e2e/test_traffic.py
	FLASHPLANE_TRAFFIC_STREAMS=100 $(BIN)/python -m pytest tests/integration/test_traffic.py -k no_stream --timeout=3600

clean: ## remove the virtual environments and build folders (downloads stay in the user's cache)
	rm -rf $(VENV) .venv-parity .venv-gpu .venv-checkov build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
