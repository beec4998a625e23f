#!/usr/bin/env bash
# Builds the source distribution, and the wheel from that, into dist/; installs the wheel in an environment that has
# nothing else, and runs each command there on digits, in an empty folder. For people who publish it: `make dist`.
#
# Usage: tools/try_wheel.sh PYTHON [more options for pip install]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift

rm -rf dist
"$python" -m build --outdir dist .

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --disable-pip-version-check --quiet "$@" "$(ls "$PWD"/dist/*.whl)[digits]"

# Nothing of this tree is found from here.
unset PYTHONPATH
PATH="$place/venv/bin:$PATH"
mkdir "$place/empty"
cd "$place/empty"
cat >tiny.yaml <<'SPACE'
name: tiny
resolution: 16
classes: 10
stem: {out_channels: 8, stride: 2}
stages:
  - {out_channels: [8, 16], depth: 1, expansion_ratio: [2, 3], kernel_size: 3, squeeze_excite: false, activation: relu}
head: {conv_channels: 32}
SPACE

step() {
    echo "\$ $*"
    "$@"
}
step fbnet-profile --version
step fbnet-profile --space tiny.yaml --networks 4 --rounds 2 -o host.csv
step fbnet-search --latency-table host.csv --target-latency 1ms --data digits --epochs 2 -o runs/search
step fbnet-train --architecture runs/search/architecture.yaml --data digits --epochs 2 -o runs/train
step fbnet-export --checkpoint runs/train/best.pt --data digits -o model.tflite
step fbnet-benchmark model.tflite --latency-table host.csv --data digits -o benchmark.json
step fbnet-report host.csv runs benchmark.json -o report.html
for command in profile search train export benchmark report; do
    bash -c "source <(fbnet-report --completion bash) && complete -p fbnet-$command"
done
