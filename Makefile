# negotiator: `make demo` and `make test` need Python >= 3.11, make and a package index; nothing else.
# Each target sets .venv up for itself; a second run starts at once.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 200
CASES ?= 2000
SECONDS ?= 300
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: bench clean demo docs fuzz fuzz-api help lint lock simulate test test-all

demo: $(VENV)/.core ## run the example workload through simulated sellers: no key, no money
	@$(BIN)/negotiator demo $(ARGS)

test: $(VENV)/.test ## run the default tests (a few minutes)
	@$(BIN)/pytest -m "not slow" $(ARGS)

test-all: $(VENV)/.test-all ## run every test: long simulations, cluster, browser
	@$(BIN)/pytest $(ARGS)

simulate: $(VENV)/.test ## run the market simulation with faults over SEEDS=200 seeds
	@NEGOTIATOR_SIMULATION_SEEDS=$(SEEDS) $(BIN)/pytest tests/test_market.py $(ARGS)

bench: $(VENV)/.bench ## measure again what benchmarks/README.md reports
	@$(BIN)/python benchmarks/report.py $(ARGS)

fuzz: $(VENV)/.test ## bend what every parser reads, CASES=2000 times each
	@NEGOTIATOR_FUZZ=$(CASES) $(BIN)/pytest tests/test_fuzz_parsers.py $(ARGS)

fuzz-api: $(VENV)/.test-all ## ask every route what its document allows and forbids, then sequences of calls for SECONDS=300
	@NEGOTIATOR_FUZZ_SECONDS=$(SECONDS) $(BIN)/pytest tests/test_api_fuzz.py $(ARGS)

lint: $(VENV)/.lint ## check style, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(VENV)/.docs ## build the documentation into site/, offline, strictly
	@$(BIN)/python docs/make_reference.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "site/index.html"

lock: $(VENV)/.core ## write deploy/*.lock anew: every package of the image with the digest of its files
	@$(BIN)/python -m pip install -qq uv
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml -o deploy/requirements.lock
	@echo 'hatchling>=1.25' | $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate - -o deploy/build.lock

clean: ## remove the environment and everything that was built
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

# One stamp per set of extras; pyproject.toml says what is in them.
$(VENV)/.core: EXTRA :=
$(VENV)/.test: EXTRA := [test]
$(VENV)/.test-all: EXTRA := [test-all]
$(VENV)/.lint: EXTRA := [test,lint]
$(VENV)/.bench: EXTRA := [test,bench]
$(VENV)/.docs: EXTRA := [docs]

$(VENV)/.core $(VENV)/.test $(VENV)/.test-all $(VENV)/.lint $(VENV)/.bench $(VENV)/.docs: pyproject.toml
	@$(NEW_VENV)
	@echo "Installing negotiator$(EXTRA) into $(VENV) (the first time takes a minute or two) ..."
	@$(BIN)/python -m pip install -qq --editable '.$(EXTRA)'
	@touch $@

# The first Python that is new enough and can make an environment; PYTHON=... chooses another.
define NEW_VENV
test -x $(BIN)/pip || { \
  for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
    if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
      echo "Making $(VENV) with $$($$python --version) ..."; \
      exec $$python -m venv --clear $(VENV); \
    fi; \
  done; \
  echo "negotiator needs Python 3.11 or later with its venv module (on Debian and Ubuntu: apt install python3-venv);" >&2; \
  echo "found: $$(python3 --version 2>&1 | grep Python || echo none). Name another one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
  exit 1; }
endef
