# Everything happens in environments inside the checkout; nothing needs to be activated.

PYTHON ?= python3
# pytest's -m, and further arguments: make test PYTEST_ARGS='-n 4 -x'
SELECT ?= not (e2e or cluster or slow)
PYTEST_ARGS ?= -n 2 --dist worksteal
# make lock UPGRADE=--upgrade takes the newest releases; without it, pins that still fit are kept.
UPGRADE ?=
DOCS_ARGS ?=

VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
UV := $(CURDIR)/$(BIN)/uv

# The interpreter is the caller's choice, never a download.
export UV_PYTHON_DOWNLOADS := never
# Where the system has certificates, trust them, as pip does: institutes add their proxy's there.
export UV_SYSTEM_CERTS ?= $(if $(wildcard /etc/ssl/certs/ca-certificates.crt),true,false)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test e2e lint docs wheel bench lowest lock clean

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

# Stamps: the work is done again only when what it was made from has changed.
# Each process imports a lot; where PYTHONDONTWRITEBYTECODE is set, it would compile all of it anew.

$(VENV)/.uv: requirements/uv.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.synced: requirements/lock.txt $(VENV)/.uv
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python $<
	@touch $@

$(LOWEST)/.synced: requirements/lowest.txt $(VENV)/.uv
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(LOWEST)/bin/python $<
	@touch $@

# The locks hold the build backend, so building needs no network; `check` compares with pyproject.toml.
%/.installed: pyproject.toml %/.synced
	$(UV) pip install --quiet --python $*/bin/python --no-deps --no-build-isolation --editable .
	$(UV) pip check --quiet --python $*/bin/python
	@touch $@

install: $(VENV)/.installed  ## make .venv from requirements/lock.txt

demo: install  ## run the demo in demo/
	$(BIN)/snakemake-blocks demo demo

test: install  ## run the tests that start no Snakemake: all laws, in minutes
	$(BIN)/pytest -m '$(SELECT)' $(PYTEST_ARGS)

# What the docs say is tried by `make docs`.
e2e: install  ## run the end-to-end tests, with real Snakemake
	$(BIN)/pytest -m 'e2e and not cluster and not slow' --ignore tests/test_docs.py $(PYTEST_ARGS)

lint: install  ## check style, types, import contracts and Snakefiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check workflow

# -W: a warning, such as a link that leads nowhere, fails. DOCS_ARGS='-D nb_execution_mode=off' is quick.
docs: install  ## build the docs into docs/_build/html; does all that they say
	$(BIN)/sphinx-build -q -E -W --keep-going -b html -d docs/_build/doctrees $(DOCS_ARGS) docs docs/_build/html
	$(BIN)/pytest tests/test_docs.py $(PYTEST_ARGS)

# The wheel is built from the sdist, so both are tested, and runs where the checkout is not.
wheel: install  ## build the wheel and run its demo in an empty environment
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	set -e; wheel=$$(echo "$(CURDIR)"/dist/*.whl); there=$$(mktemp -d); trap 'rm -rf "$$there"' EXIT; \
	$(PYTHON) -m venv "$$there/venv"; \
	$(UV) pip install --quiet --python "$$there/venv/bin/python" --constraint requirements/lock.txt "$$wheel[demo]"; \
	cd "$$there"; venv/bin/snakemake-blocks demo demo

bench: install  ## measure everything beside daisy and dask, into benchmarks/RESULTS.md
	$(BIN)/python benchmarks/bench.py

# Old releases warn about their newer companions: here warnings are shown, not raised.
lowest: $(LOWEST)/.installed  ## run the tests with the oldest dependencies allowed
	$(LOWEST)/bin/pytest -m '$(SELECT)' -W default -p no:cacheprovider --ignore tests/test_docs.py $(PYTEST_ARGS)

COMPILE := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

lock: $(VENV)/.uv  ## make the locks follow pyproject.toml
	echo uv | $(UV) $(COMPILE) $(UPGRADE) --output-file requirements/uv.txt -
	$(UV) $(COMPILE) $(UPGRADE) --extra demo --group build --group test --group docs --group lint \
		--output-file requirements/lock.txt pyproject.toml
	$(UV) $(COMPILE) --upgrade --resolution lowest-direct --extra demo --group build --group test \
		--output-file requirements/lowest.txt pyproject.toml

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(LOWEST) .venv-peers dist demo docs/_build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
