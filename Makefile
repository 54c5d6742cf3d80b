# Everything a newcomer or a machine runs. `make` alone says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test faults check format bench swaps simulate drift-flights constraints clean distclean

# Where it is set every process compiles every module it imports: a monitor took 1.7 s to import instead of 0.7.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/python -m uv
INSTALL := $(UV) pip install --quiet --python $(BIN)/python --constraints constraints.txt
# What runs Penstock on this machine, without torch; and what builds and tests it.
RUN_EXTRAS := cpu,embedded,demo
ALL_EXTRAS := $(RUN_EXTRAS),train,dev
comma := ,

DEMO_ARGS ?=
TEST_ARGS ?=
BENCH ?= peers
PEERS_ARGS ?= --output benchmarks/results --against benchmarks/results
BENCH_ARGS ?= --json
SWAPS_ARGS ?=
SIMULATE_ARGS ?=
FAULT_ROUNDS ?= 20
FAULT_RATE ?= 400

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 20

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "make: Penstock needs Python 3.11 or newer, $(PYTHON) is %d.%d: set PYTHON" % sys.version_info[:2])'
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# A stamp for each set of extras, so that a second make has nothing to do.
$(VENV)/.for-running: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[$(RUN_EXTRAS)]'
	@touch $@

$(VENV)/.for-testing: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[$(ALL_EXTRAS)]'
	@touch $@ $(VENV)/.for-running

install: $(VENV)/.for-running ## Install what runs Penstock into .venv

demo: install ## Score real flights end to end (DEMO_ARGS="--days 275" for more of them)
	@$(BIN)/penstock demo $(DEMO_ARGS)

# Two processes of unit tests fill two cores. Those of contract tests have brokers of their own each and wait for them a
# third of the time, so there are three; the brokers are not up for long enough to be worth compiling well: one takes 3.9
# instead of 6.6 s of processor to start. Fault tests load the machine and hold recoveries to a time, and those marked
# `alone` measure, so that nothing runs beside them.
test: $(VENV)/.for-testing ## Run every test (TEST_ARGS="-k name" for some of them)
ifeq ($(strip $(TEST_ARGS)),)
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit
	@JDK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 $${JDK_JAVA_OPTIONS:-}" $(BIN)/python -m pytest -n 3 --dist worksteal -m "not alone" tests/contract
	@$(BIN)/python -m pytest tests/faults
	@$(BIN)/python -m pytest -m alone tests/contract
else
	@$(BIN)/python -m pytest $(TEST_ARGS)
endif

faults: $(VENV)/.for-testing ## Kill, restart and cut off real processes, longer than `make test` does (FAULT_ROUNDS, FAULT_RATE)
	@PENSTOCK_REQUIRE_KAFKA=1 PENSTOCK_FAULT_ROUNDS=$(FAULT_ROUNDS) PENSTOCK_FAULT_RATE=$(FAULT_RATE) \
		$(BIN)/python -m pytest tests/faults $(TEST_ARGS)

check: $(VENV)/.for-testing ## Lint, formatting, types, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.for-testing ## Put the sources into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install ## Compare with peers and earlier results (PEERS_ARGS), or measure alone (BENCH="stream bulk reply", BENCH_ARGS)
	@for one in $(BENCH); do \
		if [[ $$one == peers ]]; then $(BIN)/penstock bench peers $(PEERS_ARGS); \
		else $(BIN)/penstock bench $$one $(BENCH_ARGS); fi; \
	done

swaps: install ## Swap versions under load, with kills and lost devices, half an hour (SWAPS_ARGS="--model flight-delay")
	@$(BIN)/python -m benchmarks.swaps --output benchmarks/results $(SWAPS_ARGS)

simulate: install ## Simulate experiments: how often each statistical method is wrong (SIMULATE_ARGS="--scale 0.1")
	@$(BIN)/python -m benchmarks.experiments $(SIMULATE_ARGS)

drift-flights: install ## Write docs/drift-flights.md: what drifted in a year of real flights (a minute or more)
	@$(BIN)/python -m penstock.flights.drift_story

# onnxruntime and onnxruntime-gpu exclude each other, so the extra `gpu` has no place in one set of pins.
constraints: | $(BIN)/python ## Write constraints.txt: the versions that are tested
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
		$(foreach extra,$(subst $(comma), ,$(ALL_EXTRAS)),--extra $(extra)) --output-file constraints.txt pyproject.toml

clean: ## Remove caches and the local stack's state
	rm -rf .penstock .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv as well
	rm -rf $(VENV)
