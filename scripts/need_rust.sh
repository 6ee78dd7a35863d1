#!/usr/bin/env bash
# need_rust.sh [COMPONENT...]: say what the Rust side of the build lacks, and how to get it.
set -euo pipefail

fail() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

command -v cargo >/dev/null || fail "no Rust toolchain found (\`cargo\` is not in PATH)." \
  "Install Rust 1.85 or newer, with rustup for example, and open a new shell."
version=$(cargo --version | cut -d' ' -f2)
[ "$(printf '%s\n1.85.0\n' "$version" | sort -V | head -n 1)" = 1.85.0 ] ||
  fail "cargo $version is too old: Rust 1.85 or newer is needed (rustup update)."
command -v cc >/dev/null || fail "no C compiler found to link with (\`cc\` is not in PATH)." \
  "Debian, Ubuntu: apt-get install build-essential"
for component in "$@"; do
  cargo "$component" --version >/dev/null 2>&1 || case $component in
    fmt) fail "rustfmt is missing: rustup component add rustfmt (Debian: apt-get install rustfmt)" ;;
    *) fail "$component is missing: rustup component add $component (Debian: apt-get install rust-$component)" ;;
  esac
done
