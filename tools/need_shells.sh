#!/bin/sh
# The tests press the Tab key in zsh and fish: installs them where they are missing and we may. Elsewhere they are skipped.
"$(dirname "$0")/need.sh" "zsh fish" zsh fish || echo "no zsh or no fish: the tests of completion there are skipped" >&2
