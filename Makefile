# One command each. Nothing is needed but Python 3.11 or newer (with venv) and make: the first command builds .venv.

PORT ?= 8000
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TREES := $(wildcard src shop tests bench tools examples)

# A virtual environment that was moved or copied, or whose Python is gone, is made again.
ifneq ($(wildcard $(READY)),)
ifneq ($(shell cat $(READY)),$(CURDIR))
STALE := again
else ifneq ($(shell $(BIN)/python -c 'print(1)' 2>/dev/null),1)
STALE := again
endif
endif

.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs http-suite lock format clean again

help: ## say what there is (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## the shop with its cache, on http://localhost:8000 (another port: make demo PORT=8001)
	@exec $(BIN)/python -m shop.demo --port $(PORT) $(ARGS)

# All of them side by side, one process a core; those that are named, one after the other.
test: $(READY) ## all tests, with every server they need (some: make test ARGS="-k name")
	@exec $(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n auto --maxprocesses 8)

check: $(READY) ## style, types, and whether the lock is in step with pyproject.toml
	$(BIN)/python tools/lock.py --check
	$(BIN)/ruff check $(TREES)
	$(BIN)/ruff format --check $(TREES)
	$(BIN)/python tools/snippets.py build/snippets
	$(BIN)/mypy $(TREES) build/snippets
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

bench: $(READY) ## the figures, measured on this machine
	@exec $(BIN)/python -m bench $(ARGS)

http-suite: $(READY) ## the public HTTP cache tests, from a checkout of them: make http-suite CHECKOUT=../cache-tests
	@exec $(BIN)/python tools/http_suite.py $(CHECKOUT) $(ARGS)

docs: $(READY) ## the documentation, into build/docs; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

lock: $(READY) ## make requirements.lock from pyproject.toml (newest versions: make lock ARGS=--upgrade)
	$(BIN)/python tools/lock.py $(ARGS)

format: $(READY) ## format the code and sort the imports
	$(BIN)/ruff check --select I --fix $(TREES)
	$(BIN)/ruff format $(TREES)

clean: ## remove what make and the tools have made, the demo's database included
	rm -rf $(VENV) .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find src shop tests bench tools examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp is written last: an environment that was left half-made is not taken for a whole one.
$(READY): requirements.lock pyproject.toml tools/venv.sh $(STALE)
	@sh tools/venv.sh $(VENV)
