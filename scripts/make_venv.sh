#!/usr/bin/env bash
# make_venv.sh VENV REQUIREMENTS: create VENV if needed and install REQUIREMENTS by hash.
#
# PYTHON names the interpreter to use (default: the first of python3, python3.13, python3.12,
# python3.11 that is CPython 3.11 or newer). Says what is missing and how to get it.
set -euo pipefail
venv=$1
requirements=$2

fail() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

new_enough='import platform, sys
sys.exit(sys.version_info < (3, 11) or platform.python_implementation() != "CPython")'
python=
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
  if command -v "$candidate" >/dev/null && "$candidate" -c "$new_enough" 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || fail "no CPython 3.11 or newer found (tried: ${PYTHON:-python3 python3.13 python3.12 python3.11})." \
  "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3"

# A venv whose interpreter is gone (moved clone, upgraded Python) is of no use: make it anew.
"$venv/bin/python" -c "$new_enough" 2>/dev/null || rm -rf "$venv"

if [ ! -x "$venv/bin/python" ]; then
  if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -m venv "$venv"
  elif "$python" -c 'import venv' 2>/dev/null && "$python" -m pip --version >/dev/null 2>&1; then
    # Debian without python3-venv, but with a pip that can install into another environment.
    "$python" -m venv --without-pip "$venv"
  else
    fail "$(command -v "$python") has no ensurepip, so it cannot make a virtual environment." \
      "Debian, Ubuntu: apt-get install python3-venv. Others: install pip for this Python."
  fi
fi

# The lock is complete, so nothing is resolved: what is installed is what was locked.
PYTHON=$python "$(dirname "$0")/pip.sh" "$venv" install --quiet --no-deps --require-hashes \
  --requirement "$requirements"
