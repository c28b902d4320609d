# Two commands matter: `make book` and `make test`. Each sets up what it needs and says what it is doing.
#
#   make book     environment, real weights and speech, notebooks, rendered book (prints the path of its first page)
#   make print    the book, and all of it in one PDF (needs a Chromium)
#   make test     environment, every test (the book's own included); needs no network once the environment stands
#   make study    recompute the study's rows: trains, merges, decodes and scores; prints its plan and estimate first
#   make bench    merging timed against other libraries and the disk (over an hour)
#   make lint     ruff, linter and formatter
#   make clean    remove everything that was built here (the cache of downloads stays)
#
# PYTHON=python3.12 chooses the interpreter, PROFILE=speech-base one profile for all pages, PIP_FLAGS="…" is given to pip.

PYTHON ?= python3
PROFILE ?=
PIP_FLAGS ?=
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.speechmerge-installed
SAY := @printf '• %s\n'

# One line that counts up while pip works; without a terminal a line for every 25th package.
COUNT = awk -v all=$$(grep -c == requirements.lock) '/^ *(Collecting|Requirement already)/ { n++; \
	if (tty) printf "\r  package %d of %d", n, all; else if (n % 25 == 0) printf "  package %d of %d\n", n, all; fflush() } \
	/^Installing/ { printf "%s  unpacking\n", tty ? "\r" : ""; fflush() }' tty=$$([ -t 1 ] && echo 1 || echo 0)

SHELL := /bin/bash
.SHELLFLAGS := -e -o pipefail -c
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Seconds between two states of a progress bar: without a terminal each is a piece of the log.
export TQDM_MININTERVAL ?= $(shell [ -t 2 ] && echo 0.1 || echo 30)

.DEFAULT_GOAL := help
.PHONY: help setup book print test study bench lint clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(SAY) "environment: installing the pinned packages into $(VENV) (about two minutes the first time)"
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old; Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) lacks the venv module; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --no-deps --progress-bar off $(PIP_FLAGS) --requirement requirements.lock | $(COUNT)
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

book: $(STAMP)
	$(SAY) "models: the base model's weights"
	@$(BIN)/speechmerge fetch models
	$(SAY) "speech: the corpora"
	@$(BIN)/speechmerge fetch corpora asterisk stamps
	$(SAY) "book: notebooks, then pages"
	@$(BIN)/speechmerge book $(PROFILE:%=--profile %) $(PDF:%=--pdf %)

print: PDF := _build/book.pdf
print: book

test: $(STAMP)
	$(SAY) "tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

study: $(STAMP)
	$(SAY) "study: profile $(or $(PROFILE),speech)"
	@$(BIN)/speechmerge study run --profile $(or $(PROFILE),speech)

bench: $(STAMP)
	$(SAY) "benchmarks"
	@$(BIN)/python bench/run.py

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf _build book/executed book/_static/mathjax book/_static/datatables .pytest_cache .ruff_cache $(VENV)
	find lib tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
