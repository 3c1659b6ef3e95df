# Everything from a fresh clone: `make demo` to see it, `make test` to check it. Needs Python ≥ 3.11 and pip.
#
#   make demo        start Gimle, take in examples/corpus, ask three questions, stop
#   make test        style, types and tests; sets itself up, lists what it skips and why
#   make test-full   the rest: long tests, the size of the base install, the demo itself, the gate
#   make gate        what a call through the gateway costs beside the floor of this machine
#   make lint | types | unit      one part of `make test`
#   make bench       the figures of docs/benchmarks.md (minutes)
#   make docs        write anew what is generated: pages of docs/reference, and the messages of proto/
#   make lock        write deploy/locks anew from pyproject.toml; UPGRADE=--upgrade takes newer versions
#   make clean       remove .venv and all that the targets above have made

export PYTHON
SHELL := /bin/bash
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCK := deploy/locks
# Which uv writes the locks; only `make lock` installs it.
UV_VERSION := 0.13.8
COMPILE := .make/uv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --quiet $(UPGRADE)

# One line that names the part which failed, under the output of the part itself.
named = || { echo "FAILED: make $(1)" >&2; exit 1; }

.PHONY: help setup demo test test-full lint types unit full gate bench docs lock clean

help:
	@sed -n 's/^#   //p' Makefile

# Each stamp lies in .venv, so that deleting .venv forgets them all.
setup: .venv/.weights

.venv/.python:
	@python=$$(scripts/find-python) && echo "Creating .venv with $$python" && $$python -m venv .venv
	@touch $@

.venv/.locked: .venv/.python $(LOCK)/dev.txt
	@echo "Installing the packages of $(LOCK)/dev.txt"
	@$(PIP) install --require-hashes -r $(LOCK)/dev.txt
	@touch $@

.venv/.package: .venv/.locked pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.weights: .venv/.package src/gimle/gateway/weights.lock src/gimle/gateway/setup.lock
	@$(BIN)/gimle setup
	@touch $@

demo: setup
	@$(BIN)/gimle demo

test: setup
	@$(MAKE) --keep-going lint types unit $(call named,test: the lines above say which part)

lint: .venv/.package
	@$(BIN)/ruff check . $(call named,lint)

types: .venv/.package
	@$(BIN)/mypy $(call named,types)

unit: setup
	@timeout 900 $(BIN)/python -m pytest -n 2 --dist loadfile -o faulthandler_timeout=300 $(PYTEST) $(call named,unit)

test-full: setup
	@$(MAKE) --keep-going full demo gate $(call named,test-full: the lines above say which part)

full: setup
	@timeout 900 $(BIN)/python -m pytest --full -m full -o faulthandler_timeout=600 $(PYTEST) $(call named,full)

gate: setup
	@timeout 180 $(BIN)/python bench/gateway.py --gate $(call named,gate)

bench: setup
	@for file in bench/*.py; do echo "== $$file"; nice $(BIN)/python $$file || exit 1; done

docs: .venv/.package
	@$(BIN)/python scripts/generate.py

lock: .venv/.package
	@test -x .make/uv/bin/uv || { $(BIN)/python -m venv .make/uv && .make/uv/bin/pip install --quiet uv==$(UV_VERSION); }
	@$(COMPILE) pyproject.toml --output-file $(LOCK)/base.txt
	@$(COMPILE) pyproject.toml --extra local --constraints $(LOCK)/base.txt --output-file $(LOCK)/local.txt
	@$(COMPILE) pyproject.toml --extra grpc --constraints $(LOCK)/base.txt --output-file $(LOCK)/grpc.txt
	@$(COMPILE) pyproject.toml --group dev --constraints $(LOCK)/local.txt --constraints $(LOCK)/grpc.txt \
		--output-file $(LOCK)/dev.txt
	@echo "Wrote base.txt, local.txt, grpc.txt and dev.txt in $(LOCK)"

clean:
	rm -rf .venv .make .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
