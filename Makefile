# Every verb sets up what it needs: a virtual environment in .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
OLD_GROUNDING_DINO := groundingdino-py==0.4.0
export OMP_NUM_THREADS := 1

.PHONY: demo tour study test test-slow lint format install bench groundingdino-py clean

demo: .venv/.demo
	$(BIN)/python recipes/demo.py demo-photographs
	$(BIN)/dataforge build demo-photographs/subjects.yaml -o demo-corpus

tour: demo .venv/.models
	$(BIN)/dataforge tour -o tour-out --real demo-corpus --open

study: .venv/.models
	$(BIN)/dataforge study -o study-out

test: .venv/.test
	$(BIN)/python -m pytest -m "not slow and not gpu and not network" -n logical --maxprocesses 4 --dist worksteal

test-slow: .venv/.test
	$(BIN)/python -m pytest -m slow

lint: .venv/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.lint
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: .venv/.bench
	$(BIN)/python benchmarks/build.py
	$(BIN)/python -W ignore -m benchmarks.writing
	$(BIN)/python -W ignore -m benchmarks.reading
	$(BIN)/python -W ignore -m benchmarks.by_id
	$(BIN)/python -W ignore -m benchmarks.validating
	$(BIN)/python -W ignore benchmarks/pipelines.py
	$(BIN)/python -W ignore -m benchmarks.training $(if $(SCRIPT),--script $(SCRIPT))
	$(BIN)/python -W ignore -m benchmarks.scale runner

install: .venv/.core

.venv/bin/python:
	$(PYTHON) -m venv .venv

# one stamp per set of packages, so that a second run installs nothing
.venv/.core: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

.venv/.demo: .venv/.core
	$(PIP) -e ".[demo]"
	touch $@

.venv/.models: .venv/.core
	$(PIP) -e ".[models]"
	touch $@

.venv/.test: .venv/.core
	$(PIP) -e ".[test]"
	$(PIP) --no-deps $(OLD_GROUNDING_DINO)
	touch $@

.venv/.bench: .venv/.test
	$(PIP) -e ".[bench]"
	touch $@

.venv/.lint: .venv/.core
	$(PIP) -e ".[lint,test]"
	$(PIP) --no-deps $(OLD_GROUNDING_DINO)
	touch $@

# by itself: it asks for a second OpenCV and an old supervision, which nothing here uses
groundingdino-py: .venv/.core
	$(PIP) -e ".[groundingdino-py]"
	$(PIP) --no-deps $(OLD_GROUNDING_DINO)

clean:
	rm -rf .venv demo-photographs demo-corpus tour-out study-out
