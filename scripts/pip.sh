#!/usr/bin/env bash
# pip.sh VENV ARGS...: run pip for VENV, with the pip of VENV or else that of the system's Python.
set -euo pipefail
venv=$1
shift
if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  exec "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"
fi
exec "${PYTHON:-python3}" -m pip --disable-pip-version-check --no-input \
  --python "$venv/bin/python" "$@"
