# `make help` lists the commands. Everything lives in .venv; nothing is installed outside this directory.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
STAMP := $(VENV)/.installed
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
SPACE ?= search_spaces/toy.yaml
# One thread per CPU: two threads on a busy core are many times slower than one.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup sweep test lint audit

help: ## list the commands
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10 | sed 's/^/  make /'

setup: $(STAMP) ## create .venv and install the exact versions of constraints.txt (PYTHON=... picks the interpreter)

$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(VENV)/bin/python ]; then \
	  found=""; \
	  for candidate in $(PYTHON); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$candidate"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: Python 3.11 or newer is needed; tried $(PYTHON)" >&2; \
	    echo "hint: install it, then run 'make setup PYTHON=/path/to/python3.11'" >&2; exit 1; \
	  fi; \
	  "$$found" -m venv --without-pip $(VENV); \
	fi
	@if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1 && ! $(VENV)/bin/python -m ensurepip >/dev/null; then \
	  echo "error: $(VENV) has no pip, and this Python cannot install it" >&2; \
	  echo "hint: on Debian or Ubuntu, 'apt-get install python3-venv'" >&2; exit 1; \
	fi
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cluster,dev]"
	@touch $@

sweep: setup ## run the toy sweep (SPACE=... picks another search space)
	$(VENV)/bin/python -m vsae_search sweep $(SPACE)

test: setup ## run the tests
	$(VENV)/bin/python -m pytest

lint: setup ## check style, types and spelling
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell

audit: setup ## look the pinned versions up in the public advisories; a report, never a failure
	$(VENV)/bin/python .ci/audit.py
