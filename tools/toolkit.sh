# What the scripts with Kaldi's names share; they source this file.
#
#   toolkit NAME WORDS...   runs python -m wesp_lap.bin.NAME of this clone
#   fail WORDS...           says what is wrong and exits with code 2
#   show_help               prints the comment at the top of the script and exits
#
# The interpreter is $PYTHON, else that of .venv in the clone (tools/setup.sh makes it), else
# python3.

set -euo pipefail
_toolkit_root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P) # -P: utils may be a link

toolkit() {
  local name=$1 python=${PYTHON:-}
  shift
  if [[ -z $python && -x $_toolkit_root/.venv/bin/python ]]; then
    python=$_toolkit_root/.venv/bin/python
  fi
  PYTHONPATH=$_toolkit_root${PYTHONPATH:+:$PYTHONPATH} \
    "${python:-python3}" -m "wesp_lap.bin.$name" "$@"
}

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

show_help() {
  awk 'NR == 1 && /^#!/ {next} /^#/ {sub(/^# ?/, ""); print; next} {exit}' "$0"
  exit 0
}
