#!/bin/sh
# The tests look at reports in Chromium: installs it where it is missing and we may. Elsewhere they are skipped.
"$(dirname "$0")/need.sh" chromium chromium || echo "no Chromium: the tests of how reports look are skipped" >&2
