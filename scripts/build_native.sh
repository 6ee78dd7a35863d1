#!/usr/bin/env bash
# build_native.sh VENV PROFILE: build the native module and install the project into VENV.
#
# Installed so that the sources stay where they are: an edit of a Python file is live at once.
# Only what pyproject.toml names as build backend runs; nothing is fetched here but crates.
set -euo pipefail
here=$(dirname "$0")
venv=$(cd "$1" && pwd)
"$here/need_rust.sh"
export PATH=$venv/bin:$PATH
export MATURIN_PEP517_ARGS="--locked --profile $2"
"$here/pip.sh" "$venv" install --quiet --no-index --no-build-isolation --no-deps \
  --editable "$here/.."
