# Everything a newcomer needs: `make demo`, then `make test`. No root, no running server.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Workers of the test run; a file stays with one, so that what its tests share is made once.
WORKERS ?= 2
PORT ?= 8000

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo demo-serve serve tick loop twin test test-slow check format bench clean

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Stamps: installing again only when the lists of dependencies changed.
$(VENV)/.installed: requirements-rl.txt requirements-serving.txt pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-rl.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

install: $(VENV)/.installed ## Create .venv with what running needs

install-dev: $(VENV)/.installed-dev ## Add what tests and checks need

demo: install ## 90 days of history -> data set -> demand model -> a fitted planner -> policies compared -> a company to look at (a few minutes)
	$(BIN)/python backend/scripts/rl/demo.py

demo-serve: install ## After `make demo`: its company in dashboard and API, the day going on (PORT=8000)
	$(BIN)/python backend/scripts/rl/demo_serve.py --port $(PORT)

serve: install ## Dispatch API on SQLite, no other server: http://127.0.0.1:8000/docs
	$(BIN)/python backend/scripts/rl/migrate.py --quiet
	@echo "http://$${ATMR_BIND:-127.0.0.1:8000}/docs; Ctrl-C stops it"
	$(BIN)/gunicorn -c backend/gunicorn.conf.py "wsgi:create()"

tick: install ## Beside `make serve`: dispatch all open bookings at every epoch, until Ctrl-C
	$(BIN)/python backend/scripts/rl/tick.py --every-epoch

loop: install ## Beside `make serve`: ticks, hourly collection, nightly retraining, reports, in one process; until Ctrl-C
	$(BIN)/python backend/scripts/rl/loop.py

twin: install ## Days in minutes against the real API and database: bookings, outcomes, nights, gate, promotion (DAYS=3)
	$(BIN)/python backend/scripts/rl/simulate_production.py --days $(or $(DAYS),3)

test: install-dev ## Run the tests; they start the servers they need
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: install-dev ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: install-dev ## Format, lint and types, as CI sees them
	$(BIN)/ruff format --check backend
	$(BIN)/ruff check backend
	$(BIN)/mypy

format: install-dev ## Format and mend what can be mended
	$(BIN)/ruff format backend
	$(BIN)/ruff check --fix backend

bench: install-dev ## Speed of the simulator, of learning beside other libraries, of collection and replay
	$(BIN)/python backend/scripts/rl/benchmark.py env
	$(BIN)/python backend/scripts/rl/benchmark.py training
	$(BIN)/python backend/scripts/rl/benchmark.py collection
	$(BIN)/python backend/scripts/rl/benchmark.py replay

clean: ## Remove caches (never data/, results/ or models/)
	find backend -name __pycache__ -prune -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
