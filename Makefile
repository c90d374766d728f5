# Two commands: `make train` trains a SchNet on QM9, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/qm9-u0-8min

.PHONY: help install train test test-all lint docs extensions clean

help:
	@echo "make train       install into $(VENV), get QM9, train 8 minutes, evaluate, plot"
	@echo "make test        install into $(VENV), run the tests with coverage"
	@echo "make test-all    the long tests too"
	@echo "make lint        ruff and mypy"
	@echo "make docs        build the documentation site in build/docs"
	@echo "make extensions  build torch-scatter and torch-cluster (15 minutes; optional)"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,qm9,dev]"
	touch $@

train: install
	$(BIN)/pyg-schnet train qm9 --config pyg_schnet/training/configs/qm9_u0_8min.yaml \
		--output $(RUN) --overwrite true

TESTS := -n auto --dist worksteal --doctest-modules --doctest-glob="docs/*.md" \
	--cov --cov-report=term:skip-covered --cov-fail-under=90 \
	--pyargs pyg_schnet pyg_schnet.datasets tests docs

test: install
	$(BIN)/python -m pytest -m "not long" $(TESTS)

test-all: install
	$(BIN)/python -m pytest $(TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going --quiet docs build/docs

# Compiled against the torch in $(VENV), hence no build isolation.
extensions: install
	$(BIN)/python -m pip install -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install --no-build-isolation -c constraints.txt torch-scatter torch-cluster

clean:
	rm -rf $(VENV) build *.egg-info
