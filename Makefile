# The two commands of the README are `make demo` and `make test`; both install what they need.
#
#   make demo    build, start, deploy the example API, call it, kill the server, call again, show cost and log
#   make test    every suite, with sampled counts
#   make prove   the same with the full counts; the result is in docs/proofs/
#   make bench   figures beside their peers, in one run
#   make lint    formatting and clippy, as CI checks them

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: demo test prove bench lint setup build

setup:
	@bash scripts/setup.sh

# The same packages and targets as the tests, so that nothing is built twice.
build: setup
	cargo build --workspace --all-targets

demo: build
	python3 examples/demo.py target/debug/dunlin

test: setup
	bash scripts/test.sh

prove: setup
	bash scripts/prove.sh

bench: setup
	cargo build --release -p server -p load
	python3 benches/run.py
	cargo build --release --manifest-path benches/store/Cargo.toml --target-dir target/store-bench
	python3 benches/store.py

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
