# `make` alone lists what there is. Every target that runs Python first makes the virtual environment it needs.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
CLI    := $(PY) -m tflite2q

SCHEME ?= int8
TARGET ?= native
OUT    ?= converted
THREADS ?= 1
MODELS ?= $(if $(MANIFEST),,models/digits_uint8.tflite)
TESTS  ?= tests
JOBS   ?= 2
TIME   ?= 600
MEMORY ?= 6
SECONDS ?= 60

DEMO_MODEL  := models/scenes_uint8.tflite
DEMO_DATA   := models/scenes_test.npz
DEMO_LABELS := models/scenes_labels.csv
DEMO_REPORT  = $(OUT)/scenes.$(SCHEME).html
DEMO_TEXT    = $(OUT)/scenes.$(SCHEME).txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@echo "make TARGET [NAME=value ...]"; echo
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) \
	  | awk -F'|' '{ printf "  %-18s %s\n", $$1, $$2 }'
	@echo; echo "now: MODELS=$(MODELS) SCHEME=$(SCHEME) OUT=$(OUT) TARGET=$(TARGET) THREADS=$(THREADS) PYTHON=$(PYTHON)"

# --- environments: what a user needs, and on top of it what a developer needs ---

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or later is needed, $(PYTHON) is older; give PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.user: $(VENV)/.python setup.cfg pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[litert,images,report]'
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# --- using it ---

.PHONY: demo
demo: $(VENV)/.user ## convert and compare a real uint8 model, and say where the report is
	@mkdir -p $(OUT)
	$(CLI) inspect $(DEMO_MODEL) >$(DEMO_TEXT)
	$(CLI) convert $(DEMO_MODEL) --scheme $(SCHEME) --force -o $(OUT)/scenes.$(SCHEME).tflite >>$(DEMO_TEXT)
	$(CLI) compare $(DEMO_MODEL) --scheme $(SCHEME) --data $(DEMO_DATA) --labels $(DEMO_LABELS) --threads $(THREADS) \
	  --html $(DEMO_REPORT) >>$(DEMO_TEXT)
	@echo; echo "your report is at $(abspath $(DEMO_REPORT))"; echo
	@cat $(DEMO_TEXT)

# The shell takes paths from its environment, where they may hold spaces.  MODELS are words of the shell: several are
# separated by spaces, and one that holds spaces is quoted, MODELS="'my model.tflite' 'my folder'".
export MODELS SCHEME OUT DATA LABELS GATES MANIFEST
batch = @eval "set -- $$MODELS"; $(CLI) batch "$$@" $(if $(SCHEME),--scheme "$$SCHEME") -o "$$OUT" \
  $(if $(DATA),--data "$$DATA") $(if $(LABELS),--labels "$$LABELS") $(if $(GATES),--gates "$$GATES")

.PHONY: convert
convert: $(VENV)/.user ## convert MODELS='a.tflite folder' to SCHEME in folder OUT; only what has changed [JOBS=2]
	$(batch) --jobs $(JOBS)

.PHONY: compare
compare: $(VENV)/.user ## convert MODELS and compare each with its conversion, speed too [DATA=... LABELS=... GATES=...]
	$(batch) --compare --speed --jobs 1 --threads $(THREADS)

.PHONY: batch
batch: $(VENV)/.user ## convert MODELS, or what MANIFEST=FILE.toml lists, with summaries in OUT [DATA LABELS GATES JOBS]
	$(batch) --jobs $(JOBS) $(if $(MANIFEST),--manifest "$$MANIFEST") \
	  --markdown "$$OUT/batch.md" --junit "$$OUT/batch.xml" --json "$$OUT/batch.json" --html "$$OUT/index.html"

.PHONY: models
models: $(VENV)/.dev ## train and quantize the models in models/ again
	$(PY) models/train_digits.py
	OMP_NUM_THREADS=1 $(PY) models/train_scenes.py

# --- working on it ---

.PHONY: check
check: lint test ## lint, then test

.PHONY: lint
lint: $(VENV)/.dev ## ruff, mypy --strict, import rules, generated documents
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) docs/generate.py --check

.PHONY: format
format: $(VENV)/.dev ## let ruff lay out the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

.PHONY: test
test: $(VENV)/.dev ## the quick tests [TESTS=tests/cli JOBS=2]
	$(PY) -m pytest -n $(JOBS) -m 'not slow and not aarch64 and not micro' $(TESTS)

.PHONY: test-slow
test-slow: $(VENV)/.dev ## the tests that `make test` leaves out
	$(PY) -m pytest -n $(JOBS) -m slow $(TESTS)

# The emulated machine is made first, once, so that a machine that cannot be made is an error and not skipped tests.
.PHONY: emulator
emulator: $(VENV)/.dev
	@$(PY) -m benchmarks.emulator

.PHONY: test-aarch64
test-aarch64: emulator ## run Arm code under an emulator; needs Debian's qemu-user-static, qemu-user and debootstrap
	$(PY) -m pytest -n $(JOBS) -m aarch64 tests/aarch64

.PHONY: test-aarch64-quick
test-aarch64-quick: emulator ## the part of test-aarch64 that takes minutes, not an hour
	$(PY) -m pytest -n $(JOBS) -m aarch64_quick tests/aarch64

.PHONY: test-micro
test-micro: $(VENV)/.dev ## run code for microcontrollers on emulated boards; needs gcc-arm-none-eabi and qemu-system-arm
	$(PY) -m pytest -n $(JOBS) -m micro tests/micro

.PHONY: test-micro-quick
test-micro-quick: $(VENV)/.dev ## the part of test-micro that takes a minute or two
	$(PY) -m pytest -n $(JOBS) -m micro_quick tests/micro

# Remote devices have slow tests only: each starts a server.
SLOW_BUT_COVERED := tests/execution/test_remote.py

.PHONY: coverage
coverage: $(VENV)/.dev ## the share of the package's lines that tests run [JOBS=2]
	rm -rf build/coverage
	$(PY) -m coverage run -m pytest -n $(JOBS) -m 'not slow and not aarch64 and not micro' $(TESTS)
	$(PY) -m coverage run -m pytest -n $(JOBS) -m slow $(SLOW_BUT_COVERED)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report --show-missing

# The shell takes FILES from its environment, where make puts what is given to it, so that folders may hold spaces.
.PHONY: test-public
test-public: $(VENV)/.dev ## run every .tflite of FILES='dir ...' through everything [JOBS=2 TIME=600 MEMORY=6 PAGE=...]
	@$(PY) -m compatibility --files "$$FILES" --jobs $(JOBS) --time $(TIME) --memory $(MEMORY) $(if $(PAGE),--page '$(PAGE)')

.PHONY: fuzz
fuzz: $(VENV)/.dev ## damage models in every way for a while; finds go to build/fuzz [SECONDS=60]
	@PYTHONPATH=tests:. $(PY) -m reliability.fuzz $(SECONDS) build/fuzz

.PHONY: docs
docs: $(VENV)/.dev ## write the generated documents again (commands, ops, schemes, kernels)
	$(PY) docs/generate.py

.PHONY: bench
bench: $(VENV)/.dev ## measure speed and accuracy, and print tables [BENCH='roofline --quick', BENCH=--help]
	$(PY) -m benchmarks $(BENCH)

.PHONY: bench-arm
bench-arm: emulator ## count instructions on emulated Arm processors against LiteRT's; needs qemu-user and gcc too
	$(PY) -m benchmarks arm --write

.PHONY: wheel
wheel: $(VENV)/.dev ## build the wheel and the source archive into dist/
	$(PY) -m build --outdir dist

.PHONY: clean
clean: ## remove what was built, not the environment
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache converted
	find tflite2q tests schemes models benchmarks compatibility docs -name __pycache__ -type d -exec rm -rf {} +
