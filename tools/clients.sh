#!/usr/bin/env bash
# Sets up what apps open files with, each once, into .clients-cache/, where nothing of it can disturb the product's own
# environment:
#   venv/   MediaPipe Tasks, OpenVINO, TFLite Micro, MNN's converter (tools/clients.txt)
#   node/   onnxruntime-web, Kotlin's compiler
# With arguments it then runs them as a command.
set -euo pipefail
cd "$(dirname "$0")/.."
CACHE=$PWD/.clients-cache
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=$(command -v python3)
NODE=(onnxruntime-web@1.30.0 kotlin-compiler@2.4.20)
say() { echo "clients: $*" >&2; }
mkdir -p "$CACHE"

tools/need.sh "node npm java" nodejs npm default-jre-headless

if ! cmp -s tools/clients.txt "$CACHE/venv/installed"; then
    say "installing MediaPipe, OpenVINO, TFLite Micro and MNN"
    rm -rf "$CACHE/venv"
    "$PYTHON" -m venv "$CACHE/venv"
    "$CACHE/venv/bin/python" -m pip install --disable-pip-version-check --quiet -r tools/clients.txt
    cp tools/clients.txt "$CACHE/venv/installed"
fi

if [ "$(cat "$CACHE/node/installed" 2>/dev/null)" != "${NODE[*]}" ]; then
    say "installing onnxruntime-web and Kotlin's compiler"
    rm -rf "$CACHE/node"
    mkdir -p "$CACHE/node"
    npm install --silent --no-audit --no-fund --prefix "$CACHE/node" "${NODE[@]}"
    echo "${NODE[*]}" >"$CACHE/node/installed"
fi

if [ $# -gt 0 ]; then CLIENTS_CACHE=$CACHE exec "$@"; fi
