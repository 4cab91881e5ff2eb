# Every target sets up what it needs. On Linux without a GPU, let torch come from its CPU index:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 2

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false
export HF_HUB_DISABLE_TELEMETRY = 1
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-slow lint format replicate bench quality clean

demo: $(VENV)/ok
	$(BIN)/safewright lab demo --out runs/demo

test: $(VENV)/ok
	$(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS)

test-slow: $(VENV)/ok
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(VENV)/ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ok
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Claims of every replicated paper, at the declared seeds, with the size axis; takes four hours on one core.
# Real text beside ReLearn's lab: SAFEWRIGHT_KNOWUNDO=FOLDER make replicate
replicate: $(VENV)/ok
	$(BIN)/safewright replicate safe_delta --seed-list 100,101,102 --widths 128,256,512 --out runs/replicate/safe_delta
	$(BIN)/safewright replicate longsafety --seed-list 100,101,102,103,104 --out runs/replicate/longsafety
	$(BIN)/safewright replicate relearn --seed-list 100,101,102,103,104 --out runs/replicate/relearn
	$(BIN)/safewright replicate srg --seed-list 100,101,102,103,104 --out runs/replicate/srg
	$(BIN)/safewright replicate agrail --seed-list 100,101,102,103,104 --out runs/replicate/agrail

bench: $(VENV)/ok
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/safe_delta_speed.py
	$(BIN)/python benchmarks/safe_delta_large.py
	$(BIN)/python benchmarks/longsafety_throughput.py
	$(BIN)/python benchmarks/longsafety_throughput.py --inspect
	$(BIN)/python benchmarks/prefix_reuse.py
	$(BIN)/python benchmarks/inspect_throughput.py
	$(BIN)/python benchmarks/unlearning_speed.py
	$(BIN)/python benchmarks/training_splits.py
	$(BIN)/python benchmarks/srg_synthesis.py
	$(BIN)/python benchmarks/serving_filter.py
	$(BIN)/python benchmarks/guard_retrieval.py
	$(BIN)/python benchmarks/guard_llm_cost.py
	$(BIN)/python benchmarks/guard_doors.py
	$(BIN)/python benchmarks/guard_http.py --seconds 60
	$(BIN)/python benchmarks/guard_peers.py

quality: $(VENV)/ok
	$(BIN)/python -m safewright.judges.quality

$(VENV)/ok: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Safewright needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) install -q -c constraints.txt torch --index-url $(TORCH_INDEX))
	$(PIP) install -q -c constraints.txt -e ".[all,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
