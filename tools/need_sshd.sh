#!/bin/sh
# The tests run OpenSSH's own daemon on loopback: installs it where it is missing and we may.
set -eu
PATH=$PATH:/usr/sbin:/sbin
if command -v sshd >/dev/null && command -v ssh >/dev/null && command -v ps >/dev/null; then exit 0; fi
case $(id -u) in 0) sudo= ;; *) sudo=sudo ;; esac
if command -v apt-get >/dev/null && { [ -z "$sudo" ] || command -v sudo >/dev/null; }; then
    $sudo apt-get update -qq
    exec $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        openssh-server openssh-client procps
fi
echo "the tests need OpenSSH's client and server: install them (Debian: openssh-client openssh-server procps)" >&2
exit 1
