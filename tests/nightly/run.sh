#!/usr/bin/env bash
# What takes too long for every change: all commands of the recipes' READMEs on miniatures, and the
# drills that kill training.
#
#   bash tests/nightly/run.sh
#
# Stops at the first failure, whose exit code it passes on.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tools/setup.sh dev
"$PYTHON" tests/nightly/readme_commands.py "$@"
"$PYTHON" tests/drills/kill_during_save.py --times 20
"$PYTHON" tests/drills/resume_identity.py
