# Set-up is done once and again only when pyproject.toml or constraints.txt change.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-full lint clean

demo: .venv/demo
	$(BIN)/isoloss quickstart --out quickstart

# What starts Ray or times itself against a process has both cores to itself; the rest is two files at a time.
BUSY := tests/cluster tests/integration tests/faults

test: .venv/dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile $(addprefix --ignore=,$(BUSY))
	$(BIN)/python -m pytest -m "not slow" $(BUSY)

test-full: .venv/dev
	$(BIN)/python -m pytest --timeout 1800

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else "isoloss needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,hf]'
	touch $@ .venv/demo

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
