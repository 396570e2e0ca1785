# Each target does its own set-up in .venv; the first run of 'make demo' installs the runtime alone.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-fast slow-tests test-gpu fuzz check docs figures sbom venv clean

demo: .venv/.runtime
	mkdir -p out
	$(BIN)/edge-purify --source samples/clips/clean.avi --save out/annotated.mp4 --json out/results.jsonl --verbose
	$(BIN)/python samples/compare.py --out out/compared.mp4

# Processes of their own for the packages: threads and memory that one package's native libraries leave behind can't reach the next.
test: .venv/.everything
	$(BIN)/python -m pytest tests --ignore tests/sdk --ignore tests/trainer
	$(BIN)/python -m pytest tests/sdk/backends
	$(BIN)/python -m pytest tests/sdk/cli
	$(BIN)/python -m pytest tests/sdk/fleet
	$(BIN)/python -m pytest tests/sdk --ignore tests/sdk/backends --ignore tests/sdk/cli --ignore tests/sdk/fleet
	$(BIN)/python -m pytest tests/trainer --ignore tests/trainer/robustness
	$(BIN)/python -m pytest tests/trainer/robustness

# All tests but those marked slow, in two processes: under two minutes on two idle cores.
test-fast: .venv/.everything
	$(BIN)/python -m pytest -m 'not slow' tests/sdk & first=$$!; \
	$(BIN)/python -m pytest -m 'not slow' tests --ignore tests/sdk; second=$$?; \
	wait $$first && exit $$second

# Find out which tests are slow, for test-fast: writes tests/slow.txt.
slow-tests: .venv/.everything
	$(BIN)/python -m pytest -p tests.timing tests/sdk
	$(BIN)/python -m pytest -p tests.timing tests/trainer
	$(BIN)/python -m pytest -p tests.timing tests --ignore tests/sdk --ignore tests/trainer

# In an environment of its own, whose TensorRT, bindings and NumPy are those that fit this machine.
test-gpu: .venv-gpu/.made
	.venv-gpu/bin/python -m pytest tests/gpu

# Hostile inputs for every target of tests/fuzz, or one: make fuzz TARGET=bundles INPUTS=10000 ENGINE=atheris
INPUTS ?= 300
ENGINE ?= hypothesis
fuzz: .venv/.everything
	$(BIN)/python -m tests.fuzz $(TARGET) --inputs $(INPUTS) --engine $(ENGINE)

check: .venv/.everything docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# The site, in site/. A warning is an error.
docs: .venv/.everything
	$(BIN)/python docs/scripts/build.py

# Write the figures of docs/figures.json and of the default bundle into README and documentation, and draw the pictures.
figures: .venv/.everything
	$(BIN)/python docs/scripts/figures.py
	$(BIN)/python docs/scripts/pictures.py

# A bill of materials (CycloneDX) of what a user of the runtime installs.
sbom: .venv/.everything
	ci/sbom.sh out/sbom.cdx.json

venv: .venv/.everything

.venv/.runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/.everything: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev]'
	touch $@ .venv/.runtime

.venv-gpu/.made: pyproject.toml ci/gpu-venv.sh
	PYTHON=$(PYTHON) ci/gpu-venv.sh .venv-gpu
	touch $@

clean:
	rm -rf .venv .venv-gpu out build dist site *.egg-info
