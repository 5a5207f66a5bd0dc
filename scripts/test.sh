#!/usr/bin/env bash
# Every suite with sampled counts. Each prints its own closing lines; the last line adds them up.
set -uo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

failed=()
suite() {
  local name=$1
  shift
  echo "==> $name"
  local start=$SECONDS
  if "$@"; then
    echo "<== $name: passed in $((SECONDS - start)) s"
  else
    failed+=("$name")
    echo "<== $name: FAILED after $((SECONDS - start)) s"
  fi
}

# One build for all: with the same packages and targets everywhere, the features are the same and nothing builds twice.
suite build cargo build -q --workspace --all-targets
suite format cargo fmt --all --check
suite install bash tests/install.sh
suite rust cargo test -q --workspace --no-fail-fast
suite node-guest node --test --test-reporter=spec runtimes/nodejs/test/*.test.cjs
suite python-guest python3 runtimes/python/test_bootstrap.py
suite guests python3 runtimes/test_guests.py
suite black-box .cache/venv/bin/python -m pytest tests -q -n 2 --dist loadgroup

if [ ${#failed[@]} -gt 0 ]; then
  echo "failed suites: ${failed[*]}"
  exit 1
fi
echo "all suites passed"
