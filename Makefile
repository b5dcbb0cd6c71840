# The words of this project. `make demo` and `make test` need nothing but python3 (3.11+), make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test check format map hostile bench sim clean
help:
	@echo "make demo     five real nodes on this machine: share, get, crash, resume, remove"
	@echo "make test     every test (about ten minutes)"
	@echo "make check    format, lint, strict types, fast tests (under a minute)"
	@echo "make map      the tree, one line a module"
	@echo "make hostile  kill -9 at seeded moments; KILLS=300 SEED=1 ONLY=follow"
	@echo "make sim      every bar of the overlay, simulated (an hour); ARGS='--only idle'"
	@echo "make bench    beside libtorrent, magic-wormhole, Syncthing, rsync; ROUNDS=5 ARGS=--help"

$(READY): requirements/dev.lock pyproject.toml tools/setup.py
	@$(PYTHON) tools/setup.py $(VENV)
	@touch $(READY)

demo: $(READY)
	@$(BIN)/python -m tools.demo $(ARGS)

test: check
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/property tests/sim tests/integration tests/hostile tests/e2e

check: $(READY)
	@$(BIN)/ruff format --check -q . || { echo "make format would change files"; exit 1; }
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/unit tests/machine tests/meta

format: $(READY)
	@$(BIN)/ruff format -q .
	@$(BIN)/ruff check -q --fix .

map: $(READY)
	@$(BIN)/python tools/map.py

hostile: $(READY)
	@$(BIN)/python -m tools.hostile --kills $(or $(KILLS),100) --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY))

sim: $(READY)
	@$(BIN)/python -m tools.sim --seed $(or $(SEED),1) $(ARGS)

bench: $(READY)
	@$(BIN)/python -m tools.bench --rounds $(or $(ROUNDS),5) $(ARGS)

clean:
	rm -rf $(VENV) .venv-bench .run build .mypy_cache .ruff_cache .hypothesis
