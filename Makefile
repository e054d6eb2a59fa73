# Two commands are enough on a fresh machine: `make demo` and `make test`. Each sets everything up first.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
ARGS ?=

# pip is used once, to put uv into the environment. These settings of a user's shell would make it install
# somewhere else, or nothing at all; those that name mirrors and certificates are left alone.
PIP := env -u PIP_USER -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT -u PIP_DRY_RUN -u PIP_NO_DEPS \
	-u PIP_CONSTRAINT -u PIP_REQUIRE_HASHES -u PYTHONHOME -u PYTHONPATH $(VENV)/bin/python -m pip

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv and install everything into it; at once when nothing has changed

demo: $(READY) ## train one backbone on text, images, audio and control, then print the report
	$(VENV)/bin/anyformer demo $(ARGS)

test: $(READY) ## run the tests; ARGS="-k text" picks some
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(READY) ## style, format and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ty check platform tokenizers tasks

bench: $(READY) ## ours beside others, in turn, and docs/results/speed.md; ARGS="train --rounds 2" picks
	$(VENV)/bin/anyformer bench $(or $(ARGS),$$($(VENV)/bin/anyformer bench --list | cut -d ' ' -f 1)) \
		--out docs/results/speed --page docs/results/speed.md

# The stamp goes first and comes back last, so a set-up that was interrupted starts over on a clean `.venv`.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "anyformer needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 || true)." \
			"Name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV) (the first time on a machine downloads torch, which takes minutes)"
	@if test -e $@; then rm $@; else $(PYTHON) -m venv --clear $(VENV); fi
	@$(PIP) install --quiet --disable-pip-version-check uv
	@env -u UV_SYSTEM_PYTHON $(VENV)/bin/uv pip install --compile-bytecode --python $(VENV)/bin/python -e '.[dev]'
	@touch $@
