# `make demo` and `make test` do all their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-slow fmt lint type unit clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	touch $@

# Train a small elastic ViT on photographs, extract every network, evaluate, draw: 12 minutes.
demo: setup
	$(BIN)/poa demo configs/ssl/demo_vit.yaml

test: lint type unit

test-slow: setup
	$(BIN)/python -m pytest -m slow

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: setup
	$(BIN)/mypy

# The tests of the page need Debian's `chromium` and are skipped without it.
unit: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
