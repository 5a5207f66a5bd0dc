#!/usr/bin/env bash
# The full counts behind SPECIFICATION.md. Each proof writes its own file below docs/proofs/, with command, date and
# result, and is skipped while that file is newer than the sources; remove the file to repeat it. With names, only those.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p docs/proofs
only=" $* "
# One set of features for all that follows: a package built alone takes others, and its crates are compiled again.
cargo build -q --workspace --all-targets
bash tests/install.sh
newest=$(git log -1 --format=%ct -- crates runtimes tests)

proof() {
  local name=$1
  shift
  local file=docs/proofs/$name.md
  [ "$only" = "  " ] || [[ $only == *" $name "* ]] || return 0
  if [ -f "$file" ] && [ "$(stat -c %Y "$file")" -gt "$newest" ] && grep -q '^result: passed' "$file"; then
    echo "$name: already proved, see $file"
    return
  fi
  echo "==> $name"
  local log result=passed
  log=$(mktemp)
  "$@" 2>&1 | tee "$log" || result=FAILED
  {
    echo "# $name"
    echo
    echo "command: \`make prove\` (runs \`$*\`)"
    echo "date: $(date -u +%F)"
    echo "result: $result"
    echo
    echo '```'
    grep -E 'acknowledged|mixed load|cold |found out|flipped|killed|claimed|median|p50|max|passed|failed|lost|test result' "$log" | grep -v '. 0 passed; 0 failed' | cut -c1-300 | tail -30 || true
    echo '```'
  } >"$file"
  rm -f "$log"
  [ "$result" = passed ]
}

proof store-kills env DUNLIN_KILLS=200 cargo test -q --workspace --test crash -- --nocapture
proof power-cuts env DUNLIN_CUTS=1000 cargo test -q --workspace --test power -- --nocapture
proof store-faults env DUNLIN_FAULTS=30 cargo test -q --workspace --test faults -- --nocapture
proof open-1-gb env DUNLIN_FILL_MB=1024 cargo test -q --workspace --test large -- --nocapture
proof server-kills env DUNLIN_KILLS=50 .cache/venv/bin/python -m pytest tests/chaos/test_kill.py -q -s
# One order that explains what clients of tables saw, on a server's own disk and over PostgreSQL.
proof tables env DUNLIN_KILLS=50 .cache/venv/bin/python -m pytest tests/chaos/test_tables.py -q -s
# Sequences of all that clients do with tables beside a model of it, and histories of many clients, on every engine.
proof tables-model env DUNLIN_CASES=500 cargo test -q --workspace --lib -- --nocapture dynamodb::tests::semantics dynamodb::tests::histories
# A million texts for each reader of what clients of tables send.
proof tables-fuzz env DUNLIN_FUZZ=1000000 cargo test -q --workspace --lib dynamodb::tests::fuzz -- --nocapture
# A hundred thousand events of 64 clients, each with a record of how it ended.
proof events env DUNLIN_EVENTS=100000 DUNLIN_KILLS=20 .cache/venv/bin/python -m pytest tests/chaos/test_events.py -q -s
# A layer that decompresses to 11 GiB.
proof image-bomb env DUNLIN_BOMB=1 .cache/venv/bin/python -m pytest tests/security/test_hostile_images.py -q -s -k too_much
# Everything at once with random kills of environments: nothing lost or doubled, and nothing that grows.
proof mixed-load env DUNLIN_SOAK_SECONDS=1800 .cache/venv/bin/python -m pytest tests/soak -q -s
proof fifty-callers env DUNLIN_LOAD_SECONDS=30 .cache/venv/bin/python -m pytest tests/load -q -s
# Every message of a commit over PostgreSQL, cut in three ways; kills of its server and of its nodes.
proof postgres-cuts env DUNLIN_CUTS=100000 cargo test -q --workspace --test postgres_cut -- --nocapture
proof postgres-kills env DUNLIN_KILLS=200 cargo test -q --workspace --test postgres --test postgres_crash -- --nocapture
# One seed after another, with cuts of the power, kills, and disks that fail and fill up.
proof simulation env DUNLIN_SEEDS=10000 cargo test -q --workspace --test seeds -- --nocapture
# Shards of streams in all ways that calls and processes end, whole engines that die over one store, and real kills.
proof pollers bash -c 'DUNLIN_SEEDS=10000 cargo test -q --workspace --lib shards_keep -- --nocapture && DUNLIN_SEEDS=10000 cargo test -q --workspace --lib survive_deaths -- --nocapture && DUNLIN_KILLS=50 cargo test -q --workspace --lib polled_through_kills -- --nocapture'
proof postgres-claims env DUNLIN_CLAIMS=1000000 cargo test -q --workspace --test postgres_claims -- --nocapture
# Two generated days of 1,000 functions for each of five seeds.
proof keep-alive env DUNLIN_FUNCTIONS=1000 cargo test -q --workspace --lib half_the_cold_calls -- --nocapture
# Programs that the compilers of other languages make, which are too large for every run.
proof wasm-languages env DUNLIN_WASM_LANGUAGES=1 .cache/venv/bin/python -m pytest tests/sdk/test_wasm_languages.py -q -s
# An engine that the tests' build leaves out, for the weight of its crates.
proof bucket cargo test -q -p store --features bucket --test blobs
