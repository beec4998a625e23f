#!/usr/bin/env bash
# Sets up what apps open files with, each once, into .clients-cache/, where nothing of it can disturb the product's own
# environment:
#   venv/   MediaPipe Tasks, OpenVINO, TFLite Micro
#   node/   onnxruntime-web
# With arguments it then runs them as a command. Needs Node 18 or later with npm.
set -euo pipefail
cd "$(dirname "$0")/.."
CACHE=$PWD/.clients-cache
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=$(command -v python3)
say() { echo "clients: $*" >&2; }
mkdir -p "$CACHE"

command -v npm >/dev/null || { say "needs Node with npm, for onnxruntime-web; install nodejs and npm"; exit 1; }

if [ ! -e "$CACHE/venv/ready" ]; then
    say "installing MediaPipe, OpenVINO and TFLite Micro"
    rm -rf "$CACHE/venv"
    "$PYTHON" -m venv "$CACHE/venv"
    # opencv-contrib-python, which MediaPipe names, draws on a display's libraries only in its own windows.
    "$CACHE/venv/bin/python" -m pip install --disable-pip-version-check --quiet \
        mediapipe==1.2.3 openvino==2026.4.1 tflite-micro pillow
    touch "$CACHE/venv/ready"
fi

if [ ! -e "$CACHE/node/ready" ]; then
    say "installing onnxruntime-web"
    rm -rf "$CACHE/node"
    mkdir -p "$CACHE/node"
    npm install --silent --no-audit --no-fund --prefix "$CACHE/node" onnxruntime-web@1.30
    touch "$CACHE/node/ready"
fi

if [ $# -gt 0 ]; then CLIENTS_CACHE=$CACHE exec "$@"; fi
