SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
BIN := .venv/bin
# Draws the order of the tests; fixed, so that what is green here is green elsewhere.
SEED ?= 1
# Tests are compiled once, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE =
# Processes that share nothing; tests/conftest.py says which tests stay together. Some wait for
# servers and clocks a third of their time: three keep two cores busier than two do.
PROCESSES ?= 3
in_processes = $(BIN)/python -m pytest --numprocesses=$(1) --dist=loadscope --no-loadscope-reorder --randomly-seed=$(SEED)

.PHONY: help install demo up down status test chaos test-celery coverage storm evidence bench bench-quick lint format docs site backtest policy-backtest lock clean

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: ## Create .venv with every locked package (skipped when it is up to date)
	@.ci/install

demo: install ## Load a history of real flights, train, and run three nights through the real scheduler
	@$(BIN)/python -m examples.flights demo

up: install ## Start PostgreSQL, S3 and Airflow on loopback
	@$(BIN)/nightshift up

down: ## Stop them
	@if [ -x $(BIN)/nightshift ]; then $(BIN)/nightshift down; fi

status: install ## Show what runs, where, and whether it is healthy
	@$(BIN)/nightshift status

test: export OMP_NUM_THREADS = 1
test: install ## Run the unit, DAG, integration and end-to-end tests, PROCESSES (3) modules at a time
	@$(call in_processes,$(PROCESSES)) --ignore=tests/chaos $(PYTEST_ARGS)

chaos: export OMP_NUM_THREADS = 1
chaos: install ## Break things: the short tests of tests/chaos; `make storm` runs the long ones
	@$(call in_processes,2) tests/chaos $(PYTEST_ARGS)

test-celery: export OMP_NUM_THREADS = 1
test-celery: install ## Run a night on Celery: Redis, two workers, and one of them lost in the middle; renews the same pages
	@$(BIN)/python -m pytest -m celery -s -rA --numprocesses=0 --evidence tests/evidence/latest.json tests/workers $(PYTEST_ARGS)
	@$(BIN)/python -m tests.evidence.pages

coverage: export OMP_NUM_THREADS = 1
coverage: install ## Run `make test` and `make chaos` as one, and report the lines and branches that no test runs
	@$(BIN)/coverage erase
	@$(call in_processes,2) --cov --cov-report=term $(PYTEST_ARGS)

evidence: export OMP_NUM_THREADS = 1
evidence: install ## Run the tests behind the promises, and renew docs/reliability.md and docs/ml-test-score.md
	@$(call in_processes,2) -m "(promise or mlts) and not long and not celery" \
	    --evidence tests/evidence/latest.json $(PYTEST_ARGS)
	@$(BIN)/python -m tests.evidence.pages

storm: export OMP_NUM_THREADS = 1
storm: install ## Kill, crash and break for long: every test marked long, with its progress; renews the same pages
	@$(BIN)/python -m pytest -m long -s -rA --numprocesses=0 --evidence tests/evidence/latest.json $(PYTEST_ARGS)
	@$(BIN)/python -m tests.evidence.pages

bench: install ## Measure everything beside its peers at full size (an hour or two), and write docs/performance.md
	@PYTHONPATH=plugins $(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: install ## The same with small sizes, in minutes; nothing is written
	@PYTHONPATH=plugins $(BIN)/python -m benchmarks --quick $(BENCH_ARGS)

lint: install ## Check style, types, layers, SQL and YAML
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/sqlfluff lint --disable-progress-bar dbt_project/models
	@$(BIN)/python .ci/check_style.py
	@$(BIN)/python .ci/check_yaml.py
	@$(BIN)/check-jsonschema --quiet --schemafile docs/schemas/model.json dags/models/*.yaml
	@$(BIN)/check-jsonschema --quiet --schemafile docs/schemas/dataset.json dags/datasets/*.yaml

format: install ## Format the Python code
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: install ## Renew what is generated: docs/cli.md, docs/DAGS.md, docs/specs.md, docs/schemas, docs/listeners.md and dbt's models of predictions
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && \
	    AIRFLOW_HOME="$$home" $(BIN)/python -m nightshift.orchestration.dag_docs dags docs/DAGS.md >/dev/null
	@$(BIN)/python -m nightshift.cli.reference_page docs
	@$(BIN)/python -m nightshift.contracts.reference_page docs
	@$(BIN)/python -m nightshift.notices.settings_schema docs
	@$(BIN)/python -m nightshift.warehouse.dbt.prediction_models dags/models dbt_project
	@$(BIN)/python -m tests.integration.local.listeners > docs/listeners.md

site: export NO_MKDOCS_2_WARNING = 1
site: install ## Build the documentation as a site, without network: open .site/index.html
	@$(BIN)/mkdocs build --strict --clean
	@echo "Open .site/index.html"

backtest: install ## Report the model's quality for every month of 2013 from April on
	@$(BIN)/python -m examples.flights backtest

policy-backtest: install ## Compare when to train again, over the same nights; a killed run goes on
	@$(BIN)/python -m examples.flights backtest policy

lock: ## Lock what pyproject.toml asks for, with hashes: requirements-dev.txt for .venv, requirements.txt for production
	@$(BIN)/uv pip compile --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --all-extras pyproject.toml -o requirements-dev.txt
	@$(BIN)/uv pip compile --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --extra airflow --extra local --extra observability pyproject.toml -c requirements-dev.txt -o requirements.txt

clean: down ## Stop the services and delete their data and the caches (not .venv)
	@if [ -x $(BIN)/nightshift ]; then $(BIN)/nightshift down --delete-data --yes; fi
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* .site dbt_project/target dbt_project/logs
