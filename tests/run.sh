#!/usr/bin/env bash
# Checks format, lint and types and runs the tests.
#
#   bash tests/run.sh                    everything but the slow tests
#   bash tests/run.sh --slow             the slow ones too (so does CI=true)
#   bash tests/run.sh tests/kaldi -k ark any arguments of pytest
#
# The exit code is 0 only when every check and every test has passed. The last line is pytest's.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
. tools/setup.sh dev || exit 1

result=0
check() {
  "$PYTHON" -m "$@" || {
    printf 'tests/run.sh: %s has failed\n' "$*" >&2
    result=1
  }
}

check ruff format --quiet --check .
check ruff check --quiet .
check mypy --no-error-summary
check mypy --no-error-summary egs/mini/local

"$PYTHON" -m pytest "$@"
code=$?
[ "$code" -eq 0 ] || result=$code
exit "$result"
