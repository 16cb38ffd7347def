.PHONY: install run test test-sdk lint types coverage soak faults fuzz bench bench-peers compliance docs clean
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin

install: .venv/ready ## make .venv with the hub and its development tools
.venv/ready: pyproject.toml constraints.txt deploy/bootstrap.sh ; @PYTHON="$(PYTHON)" sh deploy/bootstrap.sh
run: install ## start the hub with everything it needs
	@$(BIN)/hub serve --workers 2
test: install ## run the tests, three files at a time: most of them wait for something most of the time
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not alone"
	@$(BIN)/python -m pytest -m alone
test-sdk: install ; @$(BIN)/python -m pytest -m sdk tests/sdk
lint: install ; @$(BIN)/ruff check . && $(BIN)/ruff format --check .
types: install ; @$(BIN)/mypy
coverage: install ; @$(BIN)/coverage erase && $(BIN)/coverage run -m pytest -q -n 3 --dist loadfile; $(BIN)/coverage combine -q && $(BIN)/coverage report
soak: install ## faults at full size, half an hour; each line by itself is a few minutes
	@$(BIN)/python -m tests.soak
	@$(BIN)/python -m tests.soak --clients 60 --channels 40 --subscriptions 4 --rate 400 --kill-every 0 --cut-every 0 --churn 1
	@$(BIN)/python -m tests.soak_rolling
	@$(BIN)/python -m tests.soak_herd
	@$(BIN)/python -m tests.soak_herd --kill all --clients 3000 --back-within 5
	@$(BIN)/python -m tests.soak_abuse
	@$(BIN)/python -m tests.soak_fuzz
	@$(BIN)/python -m tests.soak_idle
faults: install ## Redis and its network at full size, then a thousand random fault schedules; more than an hour
	@HUB_FAULTS=full $(BIN)/python -m pytest -q -s tests/faults
	@$(BIN)/python -m tests.schedules
fuzz: install ; @nice -n 19 $(BIN)/python -m tests.fuzz
revocation: install ## a thousand connections lose their rights
	@HUB_TEST_CONNECTIONS=1000 $(BIN)/python -m pytest -q -s tests/security/test_revocation.py
bench: install ; @$(BIN)/python -m bench
bench-peers: install ## all peers and scenarios, an hour on a quiet machine; writes docs/benchmarks.md
	@PYTHON="$(PYTHON)" sh bench/peers/install.sh && $(BIN)/python -m bench --peers --document
bench-faults: install ; @PYTHON="$(PYTHON)" sh bench/peers/install.sh && $(BIN)/python -m bench.faults --document
compliance: install ; @$(BIN)/python -m compliance $(CASES)
docs: install ## what is generated, then the site, in site/
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site
clean: ; rm -rf .venv .cache tests/*/node/node_modules tests/typing/node_modules build dist site .coverage .pytest_cache .mypy_cache .ruff_cache
