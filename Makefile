# `make demo` and `make test` do all their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-slow test-readme test-docs docs fmt lint type unit clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	touch $@

# Train a small elastic ViT on photographs, extract every network, evaluate, draw: 12 minutes, of which
# MINUTES are training (`make demo MINUTES=3`).
MINUTES ?= 8.5
demo: setup
	$(BIN)/poa demo configs/ssl/demo_vit.yaml --minutes $(MINUTES)

test: lint type unit

test-slow: setup
	$(BIN)/python -m pytest -m slow

# Every command of the README as it is written, with the run of `make demo`: from this clone, and from an
# installed wheel, in an environment that finds what it depends on in `.venv`.
test-readme: setup
	$(BIN)/python -m tests.readme
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m venv build/wheel/venv
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(build/wheel/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
	build/wheel/venv/bin/python -m pip install --quiet --no-deps build/wheel/*.whl
	$(BIN)/python -m tests.readme --bin build/wheel/venv/bin

# Every command and example of the docs, in `build/docs`, with the run of `make demo`.
test-docs: setup
	$(BIN)/python -m tests.readme --docs

# The documentation as a site, `site/index.html`; links and anchors are checked, nothing is fetched. Searching
# needs a server: `python3 -m http.server --directory site`. (With `--quiet`, `--strict` would let all pass.)
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

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
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
