.PHONY: install run test test-sdk lint types coverage soak bench docs clean
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin

install: .venv/ready ## make .venv with the hub and its development tools
.venv/ready: pyproject.toml constraints.txt deploy/bootstrap.sh ; @PYTHON="$(PYTHON)" sh deploy/bootstrap.sh
run: install ## start the hub with everything it needs
	@$(BIN)/hub serve --workers 2
test: install ## run the tests
	@$(BIN)/python -m pytest
test-sdk: install ; @$(BIN)/python -m pytest -m sdk tests/sdk
lint: install ; @$(BIN)/ruff check . && $(BIN)/ruff format --check .
types: install ; @$(BIN)/mypy
coverage: install ; @$(BIN)/coverage run -m pytest -q && $(BIN)/coverage report
soak: install ; @$(BIN)/python -m tests.soak
bench: install ; @$(BIN)/python -m bench
docs: install ; @$(BIN)/python docs/generate.py
clean: ; rm -rf .venv .cache tests/sdk/node/node_modules build dist .coverage .pytest_cache .mypy_cache .ruff_cache
