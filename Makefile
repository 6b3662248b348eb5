# `make run` sets up an environment of its own in .venv and runs the whole quickstart; `make help` lists the rest.

PYTHON ?= python3
OUT ?= runs/quickstart
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run install test test-slow fuzz check docs notebooks bench bundle clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 14

run: install  ## Run the quickstart; results in runs/quickstart (OUT=... for another folder)
	$(BIN)/shutterless run --out $(OUT)

install: $(VENV)/.installed  ## Set up .venv with the pinned versions

test: install  ## Run every test that is not slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

test-slow: install  ## Run the slow tests
	$(BIN)/python -m pytest -m slow

fuzz: install  ## Try 100,000 changed files and requests (an hour on a core); a second call goes on; results in runs/fuzz
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/long_run.py --out runs/fuzz

check: $(VENV)/.installed-check  ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install  ## Build the documentation site; open build/docs/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

notebooks: install  ## Run every notebook; figures in runs/notebooks
	for notebook in $(filter-out notebooks/workspace.py,$(wildcard notebooks/*.py)); do MPLBACKEND=agg $(BIN)/python $$notebook || exit 1; done

bench: install  ## Measure speed, scaling and start-up (half an hour, 5 GB); what to compare with is in benchmarks/README.md
	$(BIN)/python -W ignore benchmarks/speed.py
	$(BIN)/python -W ignore benchmarks/speed.py --nuisances --repeats 1
	$(BIN)/python -W ignore benchmarks/scaling.py
	$(BIN)/python -W ignore benchmarks/training.py
	$(BIN)/python -W ignore benchmarks/start_up.py

bundle:  ## Make the best strip model of the quickstart the one that ships (before a release)
	cd $(OUT)/models/$$(cat $(OUT)/best.txt) && \
	  install -m 644 README.md config.json model.safetensors rates.json training.json $(CURDIR)/models/weights/transformer/
	mkdir -p models/weights/template-bank
	cp $(OUT)/evaluation/template-bank/rates.json models/weights/template-bank/

clean:  ## Remove .venv and caches; results in runs/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# the stamps are newer than what they were made from, so a second `make run` installs nothing
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "shutterless needs Python 3.11 or later, $(PYTHON) is $$($(PYTHON) --version 2>&1); use make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.installed-check: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,check]'
	@touch $@
