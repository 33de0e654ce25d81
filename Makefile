# `make` sets everything up and runs the quick start; `make test` sets everything up and tests.
# Needs Python 3.11 or newer and nothing else; `make PYTHON=/path/to/python` chooses one.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.set-up

.PHONY: quickstart setup check test clean
.DEFAULT_GOAL := quickstart

# A run that is there already is gone on with; remove the folder to start afresh.
quickstart: $(STAMP)
	$(BIN)/amc search experiments/quickstart.yaml --run-dir runs/quickstart

setup: $(STAMP)

# torch first and alone, so that no other package chooses its version or its variant.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=/path/to/python chooses one")'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_import_flow.py

test: check
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
