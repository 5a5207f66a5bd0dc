#!/usr/bin/env bash
# Installs what building and testing need and the machine lacks: a C compiler, make, Python with venv, Node.js with npm, a
# Rust toolchain. Does nothing where all is there. Needs root (or sudo) only if something is missing.
set -euo pipefail

rust_version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
missing=()
have() { command -v "$1" >/dev/null 2>&1; }

have cc || missing+=(gcc libc6-dev)
have make || missing+=(make)
have curl || missing+=(curl ca-certificates)
have git || missing+=(git)
have python3 || missing+=(python3)
have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv python3-pip)
have node || missing+=(nodejs)
have npm || missing+=(npm)
# Records and breaks what the store does to its files.
have strace || missing+=(strace)

if [ ${#missing[@]} -gt 0 ]; then
  echo "setup: installing ${missing[*]}" >&2
  sudo=""
  [ "$(id -u)" = 0 ] || sudo=sudo
  have apt-get || { echo "setup: please install: ${missing[*]}" >&2; exit 1; }
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "${missing[@]}" >/dev/null
fi

PATH="$HOME/.cargo/bin:$PATH"
if ! have cargo; then
  if have rustup; then
    rustup toolchain install "$rust_version" --profile minimal -c rustfmt -c clippy
  else
    echo "setup: a Rust toolchain ($rust_version or newer) is needed; trying the distribution's rustup" >&2
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    if have apt-get && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq rustup >/dev/null 2>&1; then
      rustup toolchain install "$rust_version" --profile minimal -c rustfmt -c clippy
    else
      echo "setup: install Rust from https://rustup.rs and run this again" >&2
      exit 1
    fi
  fi
fi
found=$(rustc --version | sed 's/rustc \([0-9.]*\).*/\1/')
oldest=$(printf '%s\n%s\n' "$rust_version" "$found" | sort -V | head -1)
if [ "$oldest" != "$rust_version" ]; then
  echo "setup: Rust $found is too old; $rust_version or newer is needed (rustup update)" >&2
  exit 1
fi
