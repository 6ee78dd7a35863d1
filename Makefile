# One command each; the same on a laptop and in CI. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust -type f \( -name '*.rs' -o -name '*.toml' -o -path '*/data/*' \))

# Stamps: what they stand for is up to date as long as they are newer than what made it.
REQUIREMENTS := $(VENV)/.requirements
NATIVE := $(VENV)/.native

.PHONY: help setup dev check check-python check-rust test test-quick bench bench-routing run soak lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(NATIVE) ## .venv with the locked packages, the native module and the command

$(REQUIREMENTS): locks/requirements-dev.txt scripts/make_venv.sh scripts/pip.sh
	@echo "setup: Python packages into $(VENV)"
	@scripts/make_venv.sh $(VENV) $<
	@touch $@

Cargo.lock: locks/Cargo.lock scripts/cargo_lock.py | $(REQUIREMENTS)
	@scripts/need_rust.sh
	@$(BIN)/python scripts/cargo_lock.py restore

$(NATIVE): $(REQUIREMENTS) Cargo.lock Cargo.toml pyproject.toml $(RUST_SOURCES)
	@echo "setup: the native module, in release mode (the first time: a minute or two)"
	@scripts/build_native.sh $(VENV) release
	@touch $@

dev: $(REQUIREMENTS) Cargo.lock ## as setup, but with a native module that is quick to build
	@scripts/build_native.sh $(VENV) quick
	@touch $(NATIVE)

check: setup ## format, lint, types, clippy, layers: under 30 seconds once warm
	@scripts/need_rust.sh fmt clippy
	@$(MAKE) --no-print-directory -j2 -Otarget check-python check-rust

check-python:
	$(BIN)/ruff format --quiet --check .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/stubtest modelux._native --mypy-config-file pyproject.toml --concise
	$(BIN)/python -m pytest -q $(wildcard tests/tidy tests/docs)

check-rust:
	cargo fmt --all --check
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings

test: setup test-quick ## every test, the quick ones first
	$(BIN)/python -m pytest $(wildcard tests/model tests/e2e)

test-quick: setup ## what needs no processes
	cargo test --quiet --locked --package modelux-core --package modelux-bench
	$(BIN)/python -m pytest $(wildcard tests/tidy tests/docs tests/unit)

bench: setup ## measure beside nginx: bench/results/*.jsonl, docs/benchmarks.md
	$(if $(wildcard rust/core/benches),cargo bench --quiet --locked --package modelux-core)
	$(BIN)/python -m pytest -q bench/micro
	$(BIN)/python -m bench.macro.run $(BENCH_FLAGS)
	$(BIN)/python -m bench.check

bench-routing: setup ## measure what routing does when providers change: bench/results/routing.md
	cargo bench --quiet --locked --package modelux-core --bench routing --bench rules --bench live
	$(BIN)/python -m bench.routing $(BENCH_FLAGS)
	$(BIN)/python -m bench.report

run: setup ## one request all the way through; with a provider key set: serve
	@$(BIN)/python scripts/run.py $(RUN_FLAGS)

soak: setup ## the properties with a hundred times the examples, and two minutes of kills
	PROPTEST_CASES=20000 cargo test --quiet --locked --release --package modelux-core
	$(BIN)/python -m pytest --hypothesis-profile soak $(wildcard tests/unit tests/model)
	MODELUX_SOAK_S=120 $(BIN)/python -m pytest tests/e2e/test_soak.py tests/e2e/test_budget_soak.py

lock: ## bring locks/ in line with the manifests; UPGRADE=1 renews every pin
	@scripts/lock.sh $(if $(UPGRADE),--upgrade)

clean: ## remove what the build made, but not what the gateway stored
	rm -rf $(VENV) target Cargo.lock modelux/_native*.so .mypy_cache .ruff_cache .pytest_cache
