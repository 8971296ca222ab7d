# The verbs of this repository. Each one sets up what it needs, in any order, from a fresh clone.
# PYTHON=/path/to/python chooses the interpreter of .venv; TESTS="-k name" goes to pytest.

VENV ?= .venv
EXTRAS ?= dev
PYTHON ?= $(shell .ci/pythons | head -n 1)
TESTS ?=
DOWNSTREAM ?=
BENCH ?=
INSTRUCTIONS ?=
COVERAGE ?=
MUTANTS ?=
MUTATION ?= wsproto_fast/headers wsproto_fast/redaction wsproto_fast/uri wsproto_fast/proxy_protocol \
  wsproto_fast/http11 wsapi/proxy _shared/gate _shared/target _shared/authentication _shared/basic_auth \
  _shared/reconnection topics/_names topics/positions

BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
LOCK := $(if $(shell command -v flock),flock $(VENV)/.lock,)
JOBS := 2

# What benchmarks/plot.py has panels for.
PLOTTED := echo-100x64 echo-50x64 pipeline-16x4k broadcast-500 idle-1000 idle-300 handshake deflate-1k client-1x64 \
  uvicorn-100x64

COMPILED := $(shell find src -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
LINTED := src tests benchmarks examples demo docs setup.py

.PHONY: build help demo test test-all bench bench-smoke instructions growth latency lint types fmt dist dist-check soak leaks faults topics-torture fuzz mutants mutation wsproto-suite downstream sanitize emulate free-threaded coverage coverage-python audit docs screenshots plots bench-results clean distclean

build: $(VENV)/.built ## create .venv and compile in place (the default)

help: ## list the verbs
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(PY):
	@test -n "$(PYTHON)" || { echo "no CPython >= 3.11 with venv and headers found; set PYTHON=" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# The build requirements go in first; the package itself is installed editable, uncompiled.
$(VENV)/.deps: pyproject.toml setup.py | $(PY)
	$(LOCK) $(PY) -m pip install -q "setuptools>=77" "Cython>=3.3"
	WSPROTO_FAST_SKIP_EXTENSIONS=1 $(LOCK) $(PY) -m pip install -q --no-build-isolation -e ".[$(EXTRAS)]"
	@touch $@

# Cython and build_ext go by timestamps: only what changed is compiled again, after a change of
# setup.py everything.
$(VENV)/.built: $(VENV)/.deps setup.py $(COMPILED)
	@find src \( -name '*.so' -o -name '*.pyd' \) ! -name '_compiled.*' -delete
	$(if $(filter setup.py,$?),WSPROTO_FAST_FORCE=1 )$(LOCK) $(PY) setup.py -q build_ext --inplace -j$(JOBS)
	@touch $@

demo: build ## start a server, talk to it with three clients, measure
	$(PY) demo/run.py

# Most of their time tests wait, so two processes take half of it. TESTS="-n 0 --pdb" runs in one.
test: build ## run the tests
	$(PY) -m pytest -n $(JOBS) --dist loadfile $(TESTS)

test-all: ## run the tests on each CPython found (PATH, pyenv), in .venvs/
	@set -e; for python in $$(.ci/pythons); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  echo "== $$($$python -V) ($$python)"; mkdir -p .venvs; \
	  $(MAKE) --no-print-directory VENV=.venvs/$$version PYTHON=$$python EXTRAS=test test; \
	done

bench: build ## compare with other libraries (BENCH= options), then the engine's micro-benchmarks
	$(PY) -m benchmarks.compare $(BENCH)
	$(PY) -m pytest benchmarks/test_engine.py --benchmark-only

bench-smoke: build ## the same, for a moment: shows that it runs, measures nothing
	$(PY) -m benchmarks.compare --quick --peer wsapi --front-end asyncio

instructions: build ## instructions per message and connection, compared with the file's (INSTRUCTIONS=--update)
	$(PY) -m benchmarks.gate $(INSTRUCTIONS)

lint: $(VENV)/.deps ## ruff, cython-lint; of workflows: zizmor, and what actionlint checks
	$(BIN)/ruff check $(wildcard $(LINTED))
	$(BIN)/ruff format --check $(wildcard $(LINTED))
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src tests
	$(BIN)/zizmor --offline --no-progress --quiet --persona pedantic .github
	$(BIN)/jactionlint $(wildcard .github/workflows/*.yml) .github/dependabot.yml

types: build ## mypy --strict; stubtest of the compiled parts
	$(PY) -m mypy -p wsproto_fast -p wsapi -p wsapi_pytest $(if $(wildcard benchmarks/*.py),-p benchmarks)
	$(PY) -m mypy tests/typing demo $(wildcard examples)
	$(PY) -m mypy.stubtest wsproto_fast --mypy-config-file pyproject.toml \
	  --allowlist tests/typing/stubtest-allowlist.txt

fmt: $(VENV)/.deps ## format, and fix what can be fixed
	$(BIN)/ruff check --fix-only $(wildcard $(LINTED))
	$(BIN)/ruff format $(wildcard $(LINTED))

dist: $(VENV)/.deps ## sdist and wheel in dist/
	$(PY) -m build

dist-check: $(VENV)/.deps ## build both, install the wheel elsewhere, run the sdist's tests against it
	.ci/dist-check $(PY)

soak: build ## the stress tests, a minute each; 50,000 connections on each front-end (SOAK_CONNECTIONS=)
	WSAPI_STRESS_SECONDS=60 $(PY) -m pytest tests/wsapi/test_sync_stress.py --timeout=300
	$(PY) -m tests.faults.soak

# An hour and more; LEAK_CONNECTIONS, LEAK_MESSAGES, SOAK_CONNECTIONS, SOAK_MESSAGES, SOAK_MINUTES change its size.
leaks: build ## counts what is left of 50,000 connections for each way of ending, and of a million messages
	LEAK_CONNECTIONS=$${LEAK_CONNECTIONS:-50000} LEAK_MESSAGES=$${LEAK_MESSAGES:-1000000} \
	  $(PY) -m pytest tests/wsproto_fast/test_leaks.py -v --timeout=3600
	$(PY) -m tests.faults.soak --each-end

faults: build ## thousands of connections through a proxy that harms them (FAULTS_MINUTES=30)
	FAULTS_ROUNDS=10 $(PY) -m pytest -q tests/faults/test_scenarios.py
	$(PY) -m tests.faults

topics-torture: build ## topics on Valkey, Redis and NATS while those are harmed (TORTURE_MINUTES=30, all together)
	$(PY) -m tests.topics_torture --require

# Compiles elsewhere with clang, again after changes. FUZZ_TARGETS="frames calls" chooses some, FUZZ_JOBS=2 runs two
# at a time. `python -m tests.fuzz --report` adds up all runs.
fuzz: build/fuzz/.built ## coverage-guided fuzzing, FUZZ_MINUTES=5 for each of the targets in tests/fuzz/targets/
	$(PY) -m tests.fuzz

build/fuzz/.built: $(VENV)/.deps setup.py .ci/fuzz-build $(COMPILED) $(shell find src -name '*.py')
	.ci/fuzz-build $(PY)
	@touch $@

mutants: build ## make mistakes in rules and limits, one by one, and see that their tests fail (MUTANTS= words of some)
	$(PY) -m tests.mutants $(MUTANTS)

mutation: build ## change Python modules anywhere and see that their own tests fail (MUTATION="words of some --minutes 30")
	$(PY) -m venv build/mutation/venv
	build/mutation/venv/bin/python -m pip install -q cosmic-ray
	build/mutation/venv/bin/python -m tests.mutation --python $(abspath $(PY)) $(MUTATION)

wsproto-suite: build ## the tests of wsproto, on our engine with its interface
	.ci/wsproto-suite $(abspath $(PY))

downstream: build ## the tests of projects that use websockets or wsproto, with theirs and with ours (DOWNSTREAM= options)
	$(PY) -m tests.downstream $(DOWNSTREAM)

# Compiles elsewhere, so that what is in place stays as it is.
sanitize: $(VENV)/.deps ## corpora, tests of the engine and of the front-ends under address and undefined-behaviour sanitizers
	.ci/sanitize $(PY)

# Root, to install qemu-user and cross compilers where they are missing.
emulate: $(VENV)/.deps ## the engine's tests on s390x (big-endian) and arm64, emulated (ARCHES=, EMULATED= options)
	.ci/emulate $(PY)

# TSAN=1 runs the stress under ThreadSanitizer instead; TESTS= replaces the tests.
free-threaded: $(VENV)/.deps ## the tests on a Python without the global lock, which it builds (FREE_THREADED=), then a stress of threads
	.ci/free-threaded $(PY) $(JOBS)

coverage: $(VENV)/.deps ## what all tests reach together, of lines in Cython, of lines and branches in Python
	.ci/coverage $(PY)

coverage-python: build ## lines and branches of each Python module by its own tests: all of them (COVERAGE= words of some)
	$(PY) -m tests.reach $(COVERAGE)

audit: $(VENV)/.deps ## known vulnerabilities of what is installed for development
	$(PY) -m venv build/audit
	build/audit/bin/python -m pip install -q pip-audit
	$(PY) -m tests.audit build/audit/bin/pip-audit

docs: build ## the documentation site in site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --clean

screenshots: docs ## pictures of the site's pages in reports/screenshots/, light and dark, by Chromium
	$(PY) docs/screenshots.py

plots: build ## the pictures and tables of docs/performance.md, docs/design.md, and README.md
	$(PY) -m benchmarks.plot
	$(PY) docs/states.py

# On a quiet machine; an hour.
bench-results: build ## measure what docs/performance.md tells (BENCH= options)
	$(PY) -m benchmarks.compare --json benchmarks/results/compare.json $(BENCH) \
	  $(addprefix --front-end ,uvloop asyncio threads trio) $(addprefix --scenario ,$(PLOTTED))

growth: build ## measure how cost grows with connections, sizes, fragments, receivers; twelve minutes (BENCH= options)
	$(PY) -m benchmarks.growth --json benchmarks/results/growth.json $(BENCH)

latency: build ## measure latencies at shares of what each peer can do, and pauses; eight minutes (BENCH= options)
	$(PY) -m benchmarks.latency --json benchmarks/results/latency.json $(BENCH)

clean: ## remove what was built (not the virtual environments)
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .venv/.built .venvs/*/.built
	find src tests benchmarks examples demo -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	find src \( -name '*.so' -o -name '*.pyd' -o -name '*.egg-info' -prune \) -exec rm -rf {} +
	find src -name '*.pyx' | sed 's/pyx$$/c/' | xargs rm -f

distclean: clean ## remove the virtual environments, too
	rm -rf .venv .venvs
