# `make demo` and `make test` need nothing but Python 3.11 and make: the virtual environment is built on first use.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PINS := requirements.txt requirements-nodeps.txt requirements-dev.txt
READY := $(VENV)/.ready
PYTEST_ARGS ?=

.PHONY: venv demo studio studio-test test check bench image image-test clean

venv: $(READY)

demo: $(READY)
	$(BIN)/python -m tests.demo

# A page to listen: with a worker that is started here, or with ENDPOINT=<id> and RUNPOD_API_KEY a deployed one.
PORT ?= 8600
studio: $(READY)
	$(BIN)/python -m $(if $(ENDPOINT),f5_worker studio --endpoint $(ENDPOINT),tests.studio) --port $(PORT)

# The page in a headless Chromium, which must be installed; leaves pictures of it in out/studio.
studio-test: $(READY)
	SCREENSHOTS=out/studio $(BIN)/python -m pytest tests/unit/test_studio.py tests/e2e/test_studio_page.py $(PYTEST_ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The tools that users would pick instead, in an environment of their own: their pins differ from ours.
bench: $(READY) .venv-bench/.ready
	$(BIN)/python -m benchmarks; missed=$$?; $(BIN)/python -m benchmarks.report && exit $$missed

.venv-bench/.ready: requirements-bench.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --disable-pip-version-check -r requirements-bench.txt
	touch $@

# With docker when its daemon answers, else podman; the base by debootstrap when no registry can be reached. IMAGE is the tag.
IMAGE ?= localhost/f5-tts-worker
image:
	IMAGE=$(IMAGE) $(PYTHON) -m tests.container.image

# The built image does the worker's main job against real servers on loopback.
image-test: $(READY)
	IMAGE=$(IMAGE) TEST_IMAGE=1 $(BIN)/python -m pytest tests/container $(PYTEST_ARGS)
	IMAGE=$(IMAGE) $(PYTHON) -m tests.container.image sizes

clean:
	rm -rf out $(VENV) .venv-bench

# The stamp is written last: an interrupted installation is repeated.
$(READY): $(PINS)
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or sys.exit(f"Python 3.11 is needed, this is {v}: make PYTHON=/path/to/python3.11")'
	@echo "Installing the pinned packages into $(VENV) (6.7 GB, a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements-nodeps.txt
	touch $@
