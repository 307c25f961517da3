# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer; both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Many small kernels: one thread a process is faster than two on tiny models
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test quick lint docs clean

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	HF_HUB_OFFLINE=1 $(BIN)/trl-segment demo

test: $(VENV)/installed lint
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses 2

# Ten seconds of an idle core, while you work on the lower floors
quick: $(VENV)/installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/selection tests/traces -q -m "not slow and not real_model" \
		--ignore tests/traces/test_chat_templates.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) demo_output site
