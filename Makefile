# `make help` lists the targets.

UV ?= $(shell command -v uv || echo $(CURDIR)/.uv/bin/uv)
TEMPLATE := $(shell find cookiecutter.json early_refusal.py hooks '{{cookiecutter.project_slug}}' -type f)
.DEFAULT_GOAL := help
# The tests, too, run commands with uv.
RUN = UV=$(UV) $(UV) run --only-dev
PYTEST := pytest -n 2 --dist load --maxschedchunk 1
ON_DEPENDENCIES := tests/test_dependencies.py $(addprefix tests/test_generated.py::,TestSuite TestQuality TestCommands)
# What takes longest comes first.
QUICK := $(addprefix tests/test_generated.py::,TestCommands::test_test_fast TestQuality)
.PHONY: help local-smoke dev test test-fast test-all test-lowest test-latest test-machines lint format bench pictures release clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-13s %s\n", $$1, $$2 }'

local-smoke: build/my-service/pyproject.toml  ## Generate a project in build/, test it, and drive its server
	$(MAKE) -C build/my-service local-smoke UV=$(UV)

dev: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Keep a project for each database in build/dev while the template changes
	$(RUN) tools/dev.py

build/my-service/pyproject.toml: $(TEMPLATE) | $(filter $(CURDIR)/.uv/bin/uv,$(UV))
	$(UV) run --only-group template cookiecutter . --no-input --overwrite-if-exists --output-dir build

test: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Test the template and the projects that it generates
	$(RUN) $(PYTEST) -m "not long"

test-fast: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Test what is rendered, and its style, types and fast tests
	$(RUN) $(PYTEST) $(QUICK) tests/test_questions.py tests/test_rendering.py

test-lowest: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Test generated projects on the oldest dependencies that they allow
	$(RUN) env UV_RESOLUTION=lowest-direct $(PYTEST) $(ON_DEPENDENCIES)

test-latest: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Test them on the newest releases, and list those that they do not allow
	@rm -rf build/latest
	$(RUN) env UV_CACHE_DIR=$(CURDIR)/build/latest/cache $(PYTEST) $(ON_DEPENDENCIES)
	@for database in sqlite postgresql; do \
	    $(UV) run --only-group template cookiecutter . --no-input -f -o build/latest/$$database database=$$database >/dev/null; \
	    (cd build/latest/$$database/my-service && $(UV) tree --quiet --outdated --depth 1 | grep 'latest:' || true); done

test-all: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Test also what takes long: workflows, upgrades, all versions of Python
	$(RUN) $(PYTEST) -rs

test-machines:  ## Test the README's commands on new Debians, each Python, as root and as a user; takes an hour
	tools/new-machines

lint: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Look for mistakes and bad style in the template's own code
	$(RUN) ruff check .
	$(RUN) ruff format --check .

format: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Format the template's own code
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Measure what the README claims; takes an hour
	$(RUN) python -m benchmarks

release: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Say what a release would be (VERSION=1.2.0), or make it (GO=yes)
	$(RUN) tools/release.py $(VERSION) $(if $(GO),--go)

pictures: | $(filter $(CURDIR)/.uv/bin/uv,$(UV))  ## Make the pictures of the README from a real session
	$(RUN) tools/pictures.py

clean:  ## Remove what can be made again
	rm -rf build .venv .uv .pytest_cache .ruff_cache uv.lock

# Only where there is no uv on the PATH.
$(CURDIR)/.uv/bin/uv:
	@python3 -m venv .uv || { echo 'There is no uv, and no virtual environment to install it in: install uv, or the package python3-venv.' >&2; exit 1; }
	@.uv/bin/pip install --quiet 'uv>=0.9,<1' || { echo 'uv could not be downloaded: look at the network, or install uv in another way.' >&2; exit 1; }
