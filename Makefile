# make demo   sets up and runs the main job
# make test   sets up and passes all tests
# The rest:   setup packages check unit properties newest mlflow-oldest e2e scenarios testbed control-plane node bench bench-decisions bench-aa golden-update corpus-update components options lock clean

PYTHON ?= python3
VENV := .venv
# The folder of this file may have spaces in its name: all paths here are relative to it.
ifneq ($(words $(VENV)),1)
$(error VENV must be a path without spaces, since make takes one as the end of a name)
endif
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# RESULTS= a file for the results of the tests, in JUnit's format
PYTEST := $(BIN)/python -m pytest $(if $(RESULTS),--junitxml="$(RESULTS)")

.PHONY: setup demo test packages check unit properties newest mlflow-oldest mlserver triton llama e2e scenarios testbed control-plane node bench bench-decisions bench-aa golden-update corpus-update components options lock clean

setup: $(READY)

$(READY): requirements/all.txt setup.py pyproject.toml
	@case "$$PWD" in *:*) echo "No colon may be in the path of this folder, where PATH and PYTHONPATH end an entry: move it" >&2; exit 1;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/all.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/mlflow-istio demo

# All suites, side by side where they share nothing, whatever fails; the verdict is at the end.
test: setup
	$(BIN)/python -m tests.support.run_suites --make "$(MAKE)"

packages: setup
	$(BIN)/python tests/support/system_packages.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Unit tests run in a random order. Those on real parts share a mesh or a cluster and run in the order of their files;
# make e2e ORDER= shuffles them, too.
ORDER ?= --randomly-dont-reorganize

unit: setup
	$(PYTEST) -m "not e2e and not control_plane and not node" --ignore=tests/property

# What has to hold for whatever comes: they compute much, and are a third of the tests of the core.
properties: setup
	$(PYTEST) -m "not e2e and not control_plane and not node" tests/property

# Model servers that nobody here wrote, each in an environment of its own: half a minute once.
SERVERS := mlserver triton llama
$(SERVERS): %: $(VENV)/%/.ready

$(SERVERS:%=$(VENV)/%/.ready): $(VENV)/%/.ready: requirements/%.txt $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip install --quiet --python $(@D)/bin/python --compile-bytecode --no-deps --require-hashes -r $<
	@touch $@

# Where one of them can't be had (MLServer 1.7 wants a Python before 3.13, Triton's wheel is for Linux), its own tests say so and fail.
e2e: setup
	-@$(MAKE) --no-print-directory --keep-going $(SERVERS)
	$(PYTEST) $(ORDER) -m "e2e and not control_plane" --ignore=tests/scenarios

# The scenarios on the local mesh; those on the testbed are part of control-plane.
scenarios: setup
	$(PYTEST) $(ORDER) -m "e2e and not control_plane" tests/scenarios

# kfp keeps the environment at the oldest Kubernetes client that is supported; what speaks to the API server runs with the
# newest one, too, which lies beside it.
NEWEST := $(VENV)/kubernetes-newest
NEWEST_TESTS := tests/unit/adapters/kubernetes tests/contract/test_kubernetes_contract.py tests/control_plane/test_retries.py

# Once per machine, into a cache folder outside this one.
testbed: setup
	$(BIN)/python -m tests.testbed build

control-plane: setup
	$(BIN)/python -m tests.testbed run --fast -- $(PYTEST) $(ORDER) -m control_plane

newest: setup $(NEWEST)/.ready
	PYTHONPATH="$(CURDIR)/$(NEWEST)" $(BIN)/python -c 'import kubernetes; print("the same with Kubernetes client", kubernetes.__version__)'
	PYTHONPATH="$(CURDIR)/$(NEWEST)" $(BIN)/python -m tests.testbed run --fast -- $(PYTEST) $(NEWEST_TESTS)

$(NEWEST)/.ready: requirements/kubernetes-newest.txt $(READY)
	rm -rf $(NEWEST)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(NEWEST) --no-deps --require-hashes -r $<
	@touch $@

# The ledger on the oldest MLflow that is supported; its pins fit no other environment, so it has one of its own.
OLDEST := $(VENV)/mlflow-oldest
OLDEST_TESTS := tests/contract/test_registry.py tests/contract/test_runs.py

mlflow-oldest: setup $(OLDEST)/.ready
	$(OLDEST)/bin/python -W ignore -c 'import mlflow; print("the same with MLflow", mlflow.__version__)'
	$(OLDEST)/bin/python -m pytest $(if $(RESULTS),--junitxml="$(RESULTS)") $(OLDEST_TESTS)

$(OLDEST)/.ready: requirements/mlflow-oldest.txt $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(OLDEST)
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python --require-hashes -r $<
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python --no-deps --editable .
	@touch $@

# Needs root; the first build takes half an hour and more. ALL=1 runs those that take too long for every day, too.
node: setup
	$(BIN)/python -m tests.node run -- $(PYTEST) $(ORDER) -m "$(if $(ALL),node,node and not node_long)"

bench: setup
	$(BIN)/python -m benchmarks

bench-decisions: setup
	$(BIN)/python -m benchmarks.decisions

bench-aa: setup
	$(BIN)/python -m benchmarks.aa

corpus-update: setup
	$(BIN)/python -m tests.testbed run --fast -- $(PYTEST) -m control_plane tests/corpus --golden-update

golden-update: setup
	$(PYTEST) -m "not e2e and not control_plane and not node" --golden-update

components: setup
	$(BIN)/python -m tests.support.compiled_components

options: setup
	$(BIN)/python -m tests.support.option_tables

lock: setup
	$(BIN)/uv pip compile setup.py --all-extras --universal --python-version 3.10 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements/all.txt
	$(BIN)/uv pip compile requirements/kubernetes-newest.in --no-deps --universal --python-version 3.10 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements/kubernetes-newest.txt
	$(BIN)/uv pip compile setup.py requirements/mlflow-oldest.in --universal --python-version 3.10 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements/mlflow-oldest.txt
	for server in $(SERVERS); do $(BIN)/uv pip compile requirements/$$server.in $$(test $$server != llama || echo --no-deps) --universal --python-version 3.10 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements/$$server.txt; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
