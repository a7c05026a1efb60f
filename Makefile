PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: help install demo test lint bench-exchange bench-inner bench-rules

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 22

install: .venv/installed  ## bptcnn and what it needs, into .venv

demo: .venv/installed  ## train on bundled digits with four workers of unequal speed (a minute)
	@rm -rf runs/demo
	$(BIN)/bptcnn train recipes/demo.toml --out runs/demo

test: .venv/installed-test  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: .venv/installed-test  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict

bench-exchange: .venv/installed  ## time push, merge and pull; writes a record into benchmarks/records
	$(BIN)/python benchmarks/exchange.py

bench-inner: .venv/installed-bench  ## time a training step against PyTorch, TensorFlow and JAX; writes a record, too
	$(BIN)/python benchmarks/inner.py --scaling --disturbed

bench-rules: .venv/installed  ## time to accuracy of all update rules on unequal workers (hours); writes a record, too
	$(BIN)/bptcnn bench rules --level HL1,HL2,HL4,HL8 --rules all --out runs/rules
	$(BIN)/python benchmarks/rules.py runs/rules

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "bptcnn needs Python 3.10 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not there): name another one, as in 'make PYTHON=python3.12'" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing bptcnn into .venv (minutes the first time)"
	@$(PIP) -e .
	@touch $@

.venv/installed-test: .venv/installed
	@echo "installing the test tools into .venv"
	@$(PIP) -e '.[test]'
	@touch $@

.venv/installed-bench: .venv/installed
	@echo "installing the frameworks to compare with into .venv"
	@$(PIP) -e '.[bench]'
	@touch $@
