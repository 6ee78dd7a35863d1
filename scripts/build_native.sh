#!/usr/bin/env bash
# build_native.sh VENV FLAGS...: build the native module and install the project into VENV.
#
# Installed so that the sources stay where they are: an edit of a Python file is live at once.
set -euo pipefail
venv=$(cd "$1" && pwd)
shift
"$(dirname "$0")/need_rust.sh"
export VIRTUAL_ENV=$venv
unset CONDA_PREFIX
"$venv/bin/maturin" develop --quiet --locked "$@"
