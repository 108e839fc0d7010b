# Everything a developer runs. `make train` in a fresh clone prepares the environment by itself.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Optional package sets beside the core, see pyproject.toml: make env EXTRAS=dev,rewards
EXTRAS ?= dev,encoders,rewards,serve
# Anything to pass on: make train ARGS="seed=3 name=third", make test ARGS="-k sampler"
ARGS ?=

comma := ,
BIN := .venv/bin
STAMP := .venv/.installed-$(subst $(comma),-,$(EXTRAS))
# uv does not read pip's variable; here, an index of local wheels given to pip is given to uv too.
export UV_FIND_LINKS ?= $(subst $(eval ) ,$(comma),$(strip $(PIP_FIND_LINKS)))
# One math thread per process: the processes of a run share the cores.
export OMP_NUM_THREADS ?= 1

.PHONY: help env train test test-full lint format clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

env: $(STAMP) ## Prepare .venv (EXTRAS=dev,cot,rewards,...)

$(STAMP): pyproject.toml constraints.txt Makefile
	@if [ ! -x $(BIN)/python ]; then \
	  for python in $(PYTHON) python3.11 python3.12 python3; do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then \
	      "$$python" -m venv .venv && break; \
	    fi; \
	  done; \
	  if [ ! -x $(BIN)/python ] && command -v uv >/dev/null; then uv venv --seed --python 3.11 .venv; fi; \
	  if [ ! -x $(BIN)/python ]; then \
	    echo "Python 3.11 or 3.12 with its venv module is needed; name one with: make env PYTHON=/path/to/python3.11"; exit 1; \
	  fi; \
	fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade >/dev/null
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; then \
	  $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraints constraints.txt --editable ".[$(EXTRAS)]"; \
	else \
	  echo "uv is not available, using pip"; \
	  $(BIN)/python -m pip install --constraint constraints.txt --editable ".[$(EXTRAS)]"; \
	fi
	@$(BIN)/python -c "import av, cv2, pyarrow, ray.train.torch, torch, matplotlib.pyplot, prism"
	@touch $@

train: env ## The main job: the embedded default, better in all four rewards
	$(BIN)/prism train recipes/laptop.yaml $(ARGS)

test: env ## Everything that needs only the core environment
	$(BIN)/pytest -m "not slow and not gpu" $(ARGS)

# pytest ends with 5 when a selection is empty, which is fine here.
test-full: env ## What `make test` leaves out: slow tests, and those for an accelerator
	$(BIN)/pytest -m "slow or gpu" $(ARGS) || [ $$? -eq 5 ]

lint: env ## The same checks as CI and pre-commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: env ## Let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove caches; keeps .venv and runs
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
