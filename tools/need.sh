#!/bin/sh
# need.sh "commands" package...: installs Debian packages where one of the commands is missing and we may.
set -eu
PATH=$PATH:/usr/sbin:/sbin
commands=$1
shift
missing=
for command in $commands; do command -v "$command" >/dev/null || missing="$missing $command"; done
[ -n "$missing" ] || exit 0
case $(id -u) in 0) sudo= ;; *) sudo=sudo ;; esac
if command -v apt-get >/dev/null && { [ -z "$sudo" ] || command -v sudo >/dev/null; }; then
    $sudo apt-get update -qq
    exec $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
fi
echo "the tests need$missing: install what has them (Debian: $*)" >&2
exit 1
