#!/bin/sh
# The tests run OpenSSH's own daemon on loopback: installs it where it is missing and we may.
exec "$(dirname "$0")/need.sh" "sshd ssh ps" openssh-server openssh-client procps
