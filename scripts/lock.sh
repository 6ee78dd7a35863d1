#!/usr/bin/env bash
# lock.sh [--upgrade]: bring locks/ up to date with pyproject.toml and the Cargo.toml files.
#
# Pins stay as they are unless a manifest asks for another version; --upgrade renews them all.
# The Python locks hold the hashes of every file of a version, so they serve every platform and
# Python 3.11 to 3.13; they name no index, so each machine uses the one it is configured for.
set -euo pipefail
cd "$(dirname "$0")/.."
upgrade=${1:-}

tools=target/lock-tools
[ -x $tools/bin/uv ] || { python3 -m venv $tools && $tools/bin/pip install --quiet 'uv==0.13.9'; }
export SSL_CERT_FILE=${SSL_CERT_FILE:-${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}}
compile() {
  $tools/bin/uv --quiet pip compile pyproject.toml --universal --python-version 3.11 \
    --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
    ${upgrade:+--upgrade} "$@" >/dev/null
}
compile --output-file locks/requirements.txt
compile --group dev --constraint locks/requirements.txt --output-file locks/requirements-dev.txt

[ -f Cargo.lock ] || python3 scripts/cargo_lock.py restore
if [ -n "$upgrade" ]; then cargo update; else cargo update --workspace; fi
python3 scripts/cargo_lock.py strip
