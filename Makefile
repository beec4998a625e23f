# make demo    sets everything up, then profiles, searches, trains, exports and benchmarks on this machine
# make test    sets everything up, OpenSSH's daemon, Chromium, zsh, fish and QEMU too, then passes the tests
# make docs    sets everything up, then builds docs/ as a site, into site/; a dead link fails it
# make test-devices  those against Android's own daemon and an aarch64 system, which it builds first (Debian, as root)
# make test-clients  those with what apps open files with (MediaPipe, OpenVINO, TFLite Micro, MNN, onnxruntime-web) and with ExecuTorch, which it installs
# make fuzz    sets everything up, a fuzzer too, then gives every parser and command 100,000 inputs that nobody would write
# make dist    builds the source distribution and the wheel into dist/, installs the wheel in an environment of its own, tries each command there
# make mutations     breaks the code on purpose, change by change, and sees that a test fails each time
#
# DATA=digits | path/to/images | CIFAR10   what the demo learns from
# FUZZ="--seed 7 space"                    what tools/fuzz.py is told: other inputs, fewer kinds
# PYTHON=python3.11                        which Python the virtual environment is made with
# PIP_ARGS="..."                           more options for pip install, such as an index with CPU-only torch wheels

PYTHON ?= python3
DATA ?= digits
PIP_ARGS ?=
FUZZ ?=
BIN := .venv/bin

.PHONY: demo test docs test-devices test-clients mutations fuzz lint dist
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/python tools/demo.py --data "$(DATA)"

test: .venv/installed
	tools/need_sshd.sh
	tools/need_chromium.sh
	tools/need_shells.sh
	tools/need_emulator.sh
	# The fuzzer's limits and watches are those of a process, so it has one of its own.
	$(BIN)/python -m pytest tests/fuzz
	$(BIN)/python -m pytest --ignore=tests/fuzz

docs: .venv/installed-docs
	$(BIN)/zensical build --clean --strict

test-devices: .venv/installed
	tools/need_sshd.sh
	tools/device_lab.sh $(CURDIR)/$(BIN)/python -m pytest -m devices tests/devices

test-clients: .venv/installed-executorch
	tools/clients.sh $(CURDIR)/$(BIN)/python -m pytest -m clients

fuzz: .venv/installed-fuzz
	$(BIN)/python tools/fuzz.py $(FUZZ)

mutations: .venv/installed
	tools/need_sshd.sh
	tools/need_chromium.sh
	tools/need_shells.sh
	tools/need_emulator.sh
	$(BIN)/python tools/mutations.py

dist: .venv/installed
	tools/try_wheel.sh $(BIN)/python $(PIP_ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "this needs Python 3.11 to 3.13 (coremltools has no wheel for newer ones yet); name one: make PYTHON=python3.13")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) -c constraints.txt -e '.[all,dev]'
	touch $@

.venv/installed-executorch: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) -c constraints.txt -e '.[executorch]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) -c constraints.txt -e '.[docs]'
	touch $@

.venv/installed-fuzz: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) -c constraints.txt -e '.[fuzz]'
	touch $@
