# Everything a person does with the project. Needs make, a C compiler and Python 3.11 or newer; the rest is installed
# into $(VENV). Choose another interpreter with `make test PYTHON=python3.12`.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
RUNS ?= runs
BIN = $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

# On every core, but the tests that start processes of their own (marked `real`) one after the other.
PYTEST_WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test lint format bench bench-peers docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "psgdsim needs Python 3.11 or newer; name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/core.stamp

$(VENV)/docs.stamp: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e ".[docs]"
	@touch $@ $(VENV)/core.stamp

install: $(VENV)/core.stamp  ## install what running scenarios needs

install-dev: $(VENV)/dev.stamp  ## install what working on the project needs

demo: $(VENV)/core.stamp  ## run the main scenario in the simulator, then for real over TCP, and compare
	rm -rf $(RUNS)/demo
	$(BIN)/psgdsim run scenarios/ccdc_8nodes.yaml --mode sim --out $(RUNS)/demo/sim
	$(BIN)/psgdsim run scenarios/ccdc_8nodes.yaml --mode real --out $(RUNS)/demo/real
	@grep -H -e params_sha256 -e '"total"' $(RUNS)/demo/sim/summary.json $(RUNS)/demo/real/summary.json
	@test "$$(grep params_sha256 $(RUNS)/demo/sim/summary.json)" = "$$(grep params_sha256 $(RUNS)/demo/real/summary.json)"
	@echo "the same parameters in both modes, bit for bit"
	@echo "The timelines open in https://ui.perfetto.dev: $(RUNS)/demo/sim/trace.json, $(RUNS)/demo/real/trace.json"

test: $(VENV)/dev.stamp  ## run the test-suite
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup

lint: $(VENV)/dev.stamp  ## check style, types and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp  ## repair style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/core.stamp  ## measure everything that benchmarks/ can measure by itself
	@for file in $(filter-out %_floors.py,$(wildcard benchmarks/*.py)); do \
		echo "# $$file" && $(BIN)/python $$file || exit 1; done

bench-peers: $(VENV)/core.stamp  ## measure against other simulators, which it installs into the user's cache folder (3 GB)
	$(BIN)/python benchmarks/peers/run.py

docs: $(VENV)/docs.stamp  ## build the documentation as HTML into docs/_build/html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:  ## remove what the other targets made, run folders apart
	rm -rf .venv build docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
