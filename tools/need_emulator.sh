#!/bin/sh
# The tests run ONNX Runtime on a processor without VNNI, which QEMU has: installs it where it is missing and we may. Elsewhere they are skipped.
"$(dirname "$0")/need.sh" qemu-x86_64 qemu-user || echo "no qemu-x86_64: the test of int8 on another processor is skipped" >&2
