#!/usr/bin/env bash
# Finds a Python environment for wesp_lap, or makes one.
#
#   . tools/setup.sh [base|mini|dev]     in a recipe: sets PYTHON and puts it first on PATH
#   bash tools/setup.sh [base|mini|dev]  by hand: prints the path of the interpreter
#
# base is what the toolkit needs, mini (the default) adds the speech synthesiser of egs/mini, dev
# adds the tools for tests. An active environment ($PYTHON, a virtual environment or conda) that
# has everything is used as it is. Otherwise .venv in the clone is made or brought up to date; it
# belongs to this script, which notes in .venv/.wesp_lap for which setup.py it is complete.

if [[ ${BASH_SOURCE[0]} != "$0" ]]; then # sourced: nothing but the results reaches the caller
  case ${1:-} in
    base | mini | dev) _wesp_extra=$1 ;;
    *) _wesp_extra=mini ;; # without an argument of its own, this file sees the caller's
  esac
  _wesp_python=$(bash "${BASH_SOURCE[0]}" "$_wesp_extra") || return 1
  export PYTHON=$_wesp_python
  _wesp_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
  case ":$PATH:" in
    ":${PYTHON%/*}:"*) ;;
    *) export PATH="${PYTHON%/*}:$PATH" ;;
  esac
  if [[ $PYTHON != "$_wesp_root"/.venv/* && ":${PYTHONPATH:-}:" != *":$_wesp_root:"* ]]; then
    export PYTHONPATH="$_wesp_root${PYTHONPATH:+:$PYTHONPATH}" # another environment, this clone
  fi
  unset _wesp_extra _wesp_python _wesp_root
  return 0
fi

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
marker=$venv/.wesp_lap
log=$venv/setup.log
extra=${1:-mini}

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

# True when $1 runs and is Python 3.10 to 3.13, for which every package has wheels.
suits() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' &>/dev/null
}

version_of() {
  "$1" -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>/dev/null ||
    echo "not a Python that runs"
}

# Prints the interpreter that the user has chosen or activated, if any.
active_python() {
  if [[ -n ${PYTHON:-} ]]; then
    command -v "$PYTHON" || fail "PYTHON=$PYTHON is no program; unset it or give the path of Python"
  elif [[ -n ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then
    command -v python3 || command -v python || true
  fi
}

# True when .venv was completed for this setup.py, this folder and at least the wanted extra.
venv_is_ready() {
  local digest folder done_extra
  [[ -x $venv/bin/python && -f $marker ]] || return 1
  { read -r digest && read -r folder && read -r done_extra; } <"$marker" || return 1
  [[ $digest == "$(cksum <"$root/setup.py")" && $folder == "$root" ]] || return 1
  [[ $extra == "$done_extra" || $extra == base || $done_extra == dev ]]
}

# Prints a Python to build .venv with.
find_python() {
  local candidate seen=
  if [[ -n ${PYTHON:-} ]]; then
    command -v "$PYTHON" # main has found that it suits
    return
  fi
  for candidate in python3 python3.12 python3.11 python3.10 python3.13 python; do
    command -v "$candidate" >/dev/null || continue
    if suits "$candidate"; then
      command -v "$candidate"
      return
    fi
    seen=${seen:-" ($candidate is $(version_of "$candidate"))"}
  done
  fail "no Python 3.10 to 3.13 found$seen; install one or give its path as PYTHON=/path/to/python3"
}

# Waits until no other run of this script works on .venv. The lock hangs on file descriptor 9 and
# ends with this process, however it ends.
lock() {
  exec 9>"$venv/.lock" || fail "cannot write to $venv"
  "$1" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null && return
  say "waiting for another set-up of $root to finish"
  "$1" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null ||
    say "cannot lock files in $venv: make sure that no other set-up of this clone runs"
}

# Runs a command with its output in the log, and says now and then that it is still at work.
run_logged() {
  local ticker code=0
  (
    exec 9>&- >&2
    while sleep 10 &>/dev/null && kill -0 $$ 2>/dev/null; do
      step=$(grep -E '^ *(Collecting|Downloading|Building|Installing) ' "$log" | tail -n 1)
      printf 'setup: %3d s: %.60s\n' "$SECONDS" "$step"
    done
  ) &
  ticker=$!
  # shellcheck disable=SC2064  # the number of now is meant
  trap "kill $ticker 2>/dev/null || true" EXIT
  "$@" >>"$log" 2>&1 </dev/null || code=$?
  kill "$ticker" 2>/dev/null || true
  return "$code"
}

# Says why the command that wrote the log failed: $1 is what it was to do.
fail_from_log() {
  if grep -qE 'No space left|Disk quota exceeded' "$log" 2>/dev/null; then
    fail "$1 failed because the disk is full: free about 4 GB in $root and in" \
      "${TMPDIR:-/tmp} (or set TMPDIR) and run the same command again"
  fi
  fail "$1 failed, see the last lines of $log: check the network, name a package index in" \
    "PIP_INDEX_URL or a folder of wheels in PIP_FIND_LINKS (docs/install.md, Without a network)," \
    "and run the same command again"
}

make_venv() {
  local base=$1
  if [[ -x $venv/bin/python ]] && "$venv/bin/python" -c 'import pip' &>/dev/null; then
    suits "$venv/bin/python" ||
      fail "$venv holds $(version_of "$venv/bin/python"), but 3.10 to 3.13 is needed; remove it"
    [[ ! -f $marker || $(sed -n 2p "$marker") == "$root" ]] && return
  fi
  "$base" -c 'import ensurepip, venv' &>/dev/null ||
    fail "$base cannot make virtual environments; on Debian and Ubuntu: apt install" \
      "python$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
  # Broken, half made or moved here from elsewhere.
  find "$venv" -mindepth 1 -maxdepth 1 ! -name .lock ! -name setup.log -exec rm -rf {} +
  run_logged "$base" -m venv "$venv" || fail_from_log "making $venv"
}

install() {
  local base lacking start=$SECONDS
  base=$(find_python)
  mkdir -p "$venv" 2>/dev/null || fail "cannot make $venv: the folder is read-only or the disk full"
  lock "$base"
  if venv_is_ready; then # made by the run that we waited for
    return
  fi
  say "installing wesp_lap[$extra] into $venv (about 1 minute and 1.4 GB without CUDA; once)"
  true >"$log" || fail "cannot write $log: the disk may be full"
  make_venv "$base"
  rm -f "$marker"
  run_logged "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
    --editable "$root$([[ $extra == base ]] || echo "[$extra]")" || fail_from_log "pip install"
  lacking=$("$venv/bin/python" "$root/tools/missing_requirements.py" "$extra") ||
    fail "pip has not installed ${lacking:-everything}; see $log"
  printf '%s\n' "$(cksum <"$root/setup.py")" "$root" "$extra" >"$marker.new"
  mv "$marker.new" "$marker"
  say "installed in $((SECONDS - start)) s"
}

main() {
  local active lacking
  case $extra in
    base | mini | dev) ;;
    -h | --help)
      sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      return
      ;;
    *) fail "unknown set '$extra': choose base, mini or dev" ;;
  esac
  trap 'exit 130' INT
  trap 'exit 143' TERM
  if [[ ${PYTHON:-} == "$venv/bin/python" ]]; then
    unset PYTHON # set by an earlier run of this script
  fi
  active=$(active_python)
  if [[ -n $active && $active != "$venv/bin/"* ]]; then
    if lacking=$("$active" "$root/tools/missing_requirements.py" "$extra" 2>/dev/null); then
      "$active" -c 'import sys; print(sys.executable)'
      return
    fi
    [[ -z ${PYTHON:-} ]] || suits "$PYTHON" ||
      fail "wesp_lap needs Python 3.10 to 3.13, but PYTHON=$PYTHON is $(version_of "$PYTHON")"
  fi
  if ! venv_is_ready; then
    [[ -z ${lacking:-} ]] || say "$active lacks ${lacking}: using $venv instead"
    install
  fi
  echo "$venv/bin/python"
}

main
