# The commands of a contributor. Each environment is made on first use, and again when its pins change.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
MATRIX ?= 3.11/5.2 3.12/6.0 3.13/6.1

# The version for `make django-suite`: DJANGO if it is set, otherwise the newest of the matrix.
SUITE_DJANGO := $(or $(DJANGO),$(lastword $(subst /, ,$(MATRIX))))

BIN := $(VENV)/bin
RUNNING := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# The Django of the matrix for this Python; on any other Python, the newest.
DJANGO ?= $(patsubst $(RUNNING)/%,%,$(filter $(RUNNING)/%,3.11/5.2 3.12/6.0 3.13/6.1))
DJANGO_PIN := $(if $(DJANGO),Django~=$(DJANGO).0,Django)
# mysqlclient is compiled: it is skipped without the client library, unless every service is required.
MYSQL := $(shell { pkg-config --exists libmariadb || pkg-config --exists mysqlclient || \
  test -n "$$SIGNALBOX_REQUIRE_SERVICES"; } 2>/dev/null && echo mysql)
# Django 6.0 and later include tasks.
comma := ,
EXTRAS := fast,cli,celery,metrics,otel$(if $(filter 5.2,$(DJANGO)),$(comma)tasks)
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt
PACKAGES := tests/doctor/popular-packages.txt
NEIGHBOURS := tests/neighbours/requirements.txt
# Sets the shell's $$python to the one of $$version that runs, from PATH or pyenv; to nothing if none does.
FIND_PYTHON = python=; for candidate in python$$version "$$HOME"/.pyenv/versions/$$version.*/bin/python; do \
  if "$$candidate" -c '' 2>/dev/null; then python=$$candidate; break; fi; done

# Empty files in the environment mark what is installed. MADE's name contains the versions: other versions create it again.
MADE := $(VENV)/.python-$(RUNNING)-django-$(or $(DJANGO),newest)
DEMO := $(VENV)/.demo
TEST := $(VENV)/.test$(MYSQL)
LINT := $(VENV)/.lint$(MYSQL)
DOCS := $(VENV)/.docs
BENCH := $(VENV)/.bench$(MYSQL)
WILD := $(VENV)/.wild
SUITE := $(VENV)/.django-suite
RELEASE := $(VENV)/.release
BESIDE := $(VENV)/.neighbours
# One environment for each package of the comparison, made from its own pins.
PEERS := django signalbox auditlog easy-audit simple-history pghistory
PEERS_PINS := benchmarks/comparison/requirements
PEERS_MADE := $(PEERS:%=.venv-peers/%/.made-$(RUNNING))

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "PYTHON=$(PYTHON) ($(RUNNING)), VENV=$(VENV), Django $(or $(DJANGO),newest)"

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is Python $(RUNNING), 3.11 or later is needed: make PYTHON=python3.13 ..." >&2; exit 1; }
	@echo "making $(VENV): Python $(RUNNING), $(DJANGO_PIN)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) pip
	@touch $@

$(DEMO): $(MADE) $(INPUTS)
	@echo "installing the demo into $(VENV)"
	@$(PIP) -e '.[fast,cli]' '$(DJANGO_PIN)'
	@touch $@

$(TEST): $(MADE) $(INPUTS)
	@echo "installing the tests' tools into $(VENV)$(if $(MYSQL),, (without mysqlclient: no client library))"
	@$(PIP) -e '.[$(EXTRAS)]' '$(DJANGO_PIN)' --group test $(if $(MYSQL),--group mysql)
	@touch $@

$(LINT): $(TEST)
	@echo "installing the linters into $(VENV)"
	@$(PIP) '$(DJANGO_PIN)' --group lint
	@touch $@

$(DOCS): $(MADE) $(INPUTS)
	@echo "installing the documentation's tools into $(VENV)"
	@$(PIP) -e . '$(DJANGO_PIN)' --group docs
	@touch $@

$(BENCH): $(MADE) $(INPUTS)
	@echo "installing the benchmarks' tools into $(VENV)"
	@$(PIP) -e '.[fast]' '$(DJANGO_PIN)' --group bench $(if $(MYSQL),--group mysql)
	@touch $@

$(WILD): $(MADE) $(INPUTS) $(PACKAGES)
	@echo "installing the packages for the doctor into $(VENV)"
	@$(PIP) -e . --group test -r $(PACKAGES)
	@touch $@

$(SUITE): $(MADE) $(INPUTS) tests/django_suite/sources.py
	@echo "installing what Django's own tests need into $(VENV)"
	@$(PIP) -e . '$(DJANGO_PIN)' --group databases
	@$(BIN)/python -m tests.django_suite.sources
	@touch $@

$(RELEASE): $(MADE) $(INPUTS)
	@echo "installing the tools of a release into $(VENV)"
	@$(PIP) --group release
	@touch $@

$(BESIDE): $(MADE) $(INPUTS) $(NEIGHBOURS)
	@echo "installing the neighbours into $(VENV)"
	@$(PIP) -e . --group test -r $(NEIGHBOURS)
	@touch $@

.PHONY: test
test: $(TEST) ## Run the tests on SQLite that need no service, in 3 minutes; ARGS="-k word" for pytest
	@$(BIN)/python -m tests.run --quick $(ARGS)

.PHONY: test-all
test-all: $(TEST) ## Run the whole suite on SQLite, and its database tests on every database and broker
	@$(BIN)/python -m tests.run $(ARGS)

.PHONY: environment
environment: $(TEST)

.PHONY: matrix environments
matrix: GOAL = test-all
matrix: ## Run the whole suite on each Python and Django of MATRIX
environments: GOAL = environment
environments: ## Make the environments of `make matrix` without running tests
matrix environments:
	@failed=; for pair in $(MATRIX); do \
	  version=$${pair%/*}; $(FIND_PYTHON); \
	  if test -z "$$python"; then echo "python$$version is missing: install it, or set MATRIX" >&2; failed=1; continue; fi; \
	  echo; echo "=== Python $$version, Django $${pair#*/}"; \
	  $(MAKE) --no-print-directory $(GOAL) PYTHON="$$python" DJANGO=$${pair#*/} VENV=.venv-$$version || failed=1; \
	done; test -z "$$failed"

.PHONY: wild
wild: ## Run the doctor over well-known packages, on the oldest Python that all of them run on
	@for version in 3.12 3.13; do $(FIND_PYTHON); if test -n "$$python"; then break; fi; done; \
	  if test -z "$$python"; then echo "python3.12 or later is missing: install it" >&2; exit 1; fi; \
	  $(MAKE) --no-print-directory wild-here PYTHON="$$python" DJANGO=6.0 VENV=.venv-wild

.PHONY: wild-here
wild-here: $(WILD)
	@SIGNALBOX_REQUIRE_PACKAGES=1 $(BIN)/python -m pytest tests/doctor/test_popular_packages.py $(ARGS)

.PHONY: django-suite django-suite-short
django-suite: ## Run Django's own tests with Signalbox; DJANGO=6.1 MODULES="basic signals" DATABASES="sqlite postgres"
	@version=$(firstword $(subst /, ,$(filter %/$(SUITE_DJANGO),$(MATRIX)))); \
	  if test -z "$$version"; then echo "Django $(SUITE_DJANGO) isn't in MATRIX=\"$(MATRIX)\"" >&2; exit 1; fi; $(FIND_PYTHON); \
	  if test -z "$$python"; then echo "python$$version is missing: install it, or set MATRIX" >&2; exit 1; fi; \
	  $(MAKE) --no-print-directory django-suite-here PYTHON="$$python" DJANGO=$(SUITE_DJANGO) VENV=.venv-django-suite-$(SUITE_DJANGO)

django-suite-short: ## Run those of Django's tests that touch the ORM, transactions, signals, requests and tests
	@$(MAKE) --no-print-directory django-suite MODULES=short

.PHONY: django-suite-here
django-suite-here: $(SUITE)
	@$(BIN)/python -m tests.django_suite.run $(if $(DATABASES),--databases "$(DATABASES)") $(ARGS) $(MODULES)

.PHONY: neighbours
neighbours: ## Do the same work with and without Signalbox, beside packages that many sites use
	@for version in 3.12 3.13; do $(FIND_PYTHON); if test -n "$$python"; then break; fi; done; \
	  if test -z "$$python"; then echo "python3.12 or later is missing: install it" >&2; exit 1; fi; \
	  $(MAKE) --no-print-directory neighbours-here PYTHON="$$python" DJANGO=6.0 VENV=.venv-neighbours

.PHONY: neighbours-here
neighbours-here: $(BESIDE)
	@SIGNALBOX_REQUIRE_NEIGHBOURS=1 $(BIN)/python -m pytest -n auto --dist loadgroup tests/neighbours $(ARGS)
	@SIGNALBOX_REQUIRE_NEIGHBOURS=1 SIGNALBOX_TEST_DB=postgres $(BIN)/python -m pytest tests/neighbours/test_values.py $(ARGS)

.PHONY: crash
crash: $(TEST) ## Run the crash tests, with many more crashes; ARGS="--crashes 500"
	@$(BIN)/python -m tests.run -m crash --crashes 200 --timeout 0 $(ARGS)

.PHONY: coverage
coverage: $(TEST) ## Run the suite on SQLite and list the branches that it did not run
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

.PHONY: lint
lint: $(LINT) ## Check style, types and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

.PHONY: format
format: $(LINT) ## Format the code and apply ruff's fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: docs
docs: $(DOCS) ## Build the documentation; a warning is an error
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky -b html docs docs/_build/html
	@echo "built docs/_build/html/index.html"

.PHONY: bench
bench: $(BENCH) ## Measure the cost of recording (ARGS="--runs 3 --write"), the search for secrets, and the doctor
	@$(BIN)/python benchmarks/recording.py $(ARGS)
	@$(BIN)/python benchmarks/redaction.py
	@$(BIN)/python benchmarks/doctor.py

.PHONY: bench-delivery
bench-delivery: $(BENCH) ## Measure durable receivers beside other queues; all of them need Python 3.12
	@$(BIN)/python benchmarks/delivery.py $(ARGS)
	@$(BIN)/python benchmarks/hot_key.py
	@$(BIN)/python benchmarks/hot_key.py --database postgres --dead 10000

.PHONY: bench-timeline
bench-timeline: $(BENCH) ## Time the pages over ten million events on PostgreSQL, and write docs/benchmarks.md
	@$(BIN)/python benchmarks/timeline.py seed
	@$(BIN)/python benchmarks/timeline.py measure --write $(ARGS)
	@$(BIN)/python benchmarks/timeline.py drop

.venv-peers/%/.made-$(RUNNING): $(PEERS_PINS)/django.txt $(PEERS_PINS)/%.txt
	@echo "making .venv-peers/$*: Python $(RUNNING)"
	@$(PYTHON) -m venv --clear .venv-peers/$*
	@.venv-peers/$*/bin/python -m pip install -qq --disable-pip-version-check \
	  -r $(PEERS_PINS)/django.txt -r $(PEERS_PINS)/$*.txt
	@touch $@

.PHONY: bench-telemetry
bench-telemetry: $(TEST) ## Measure the cost of metrics and spans, and write the table of docs/observability.md
	@$(BIN)/python benchmarks/telemetry.py --write $(ARGS)

.PHONY: bench-peers
bench-peers: $(PEERS_MADE) ## Compare with other packages, and write docs/comparison.md; ARGS="--quick" for a look
	@.venv-peers/signalbox/bin/python -m benchmarks.comparison $(ARGS)

.PHONY: demo
demo: $(DEMO) ## Start the demo site on PORT; ONCE=1 visits it once and stops
	@$(BIN)/python examples/builtinsignals/demo.py $(if $(ONCE),--once) --port $(PORT)

.PHONY: screenshots
screenshots: $(TEST) ## Take the pictures of the demo in docs/images, with Chromium
	@$(BIN)/python examples/screenshots.py

.PHONY: dist
dist: $(RELEASE) ## Build the sdist, and the wheel from it, into dist/, and check them
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation
	@$(BIN)/python -m twine check --strict dist/*

.PHONY: smoke
smoke: ## Use the wheel of dist/ with each Python and Django of MATRIX, in empty environments
	@test -n "$$(ls dist/*.whl 2>/dev/null)" || { echo "dist/ has no wheel: run make dist" >&2; exit 1; }
	@failed=; for pair in $(MATRIX); do version=$${pair%/*}; $(FIND_PYTHON); \
	  if test -z "$$python"; then echo "python$$version is missing: install it, or set MATRIX" >&2; failed=1; continue; fi; \
	  { "$$python" -m venv --clear .venv-smoke && .venv-smoke/bin/python -m pip install -qq --disable-pip-version-check \
	    -c constraints.txt dist/*.whl "Django~=$${pair#*/}.0" && .venv-smoke/bin/python tests/smoke.py; } || failed=1; \
	done; rm -rf .venv-smoke; test -z "$$failed"

.PHONY: clean
clean: ## Remove environments and everything that was built
	rm -rf .venv .venv-3.* .venv-peers .venv-smoke .venv-wild .venv-neighbours .venv-django-suite-* .cache .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist docs/_build
