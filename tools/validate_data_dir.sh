#!/usr/bin/env bash
# Checks a data directory; exits with 0 only when it has no error.
#
# Usage: tools/validate_data_dir.sh [options] DATA
#   --no-wav         leave the audio files alone (wav.scp itself is needed)
#   --no-feats, --no-text, --no-spk-sort, --non-print
#                    accepted and without effect: such tables and orders are not checked
#   --trials, --disjoint-from, --sample-rate, --audio, --require-two-utterances, --allow-pipe
#                    as in python -m wesp_lap.bin.validate_data_dir

. "$(dirname "${BASH_SOURCE[0]}")/toolkit.sh"

options=()
data=
while (($# > 0)); do
  case $1 in
    --no-feats | --no-text | --no-spk-sort | --non-print) ;;
    --no-wav) options+=(--audio none) ;;
    --require[-_]two[-_]utterances | --allow[-_]pipe) options+=("$1") ;;
    --trials | --disjoint[-_]from | --sample[-_]rate | --audio)
      (($# > 1)) || fail "$1 needs a value"
      options+=("$1" "$2")
      shift
      ;;
    --trials=* | --disjoint[-_]from=* | --sample[-_]rate=* | --audio=*) options+=("$1") ;;
    --help | -h) show_help ;;
    -*) fail "unknown option $1; see --help" ;;
    *)
      [[ -z $data ]] || fail "one data directory, not also '$1'"
      data=$1
      ;;
  esac
  shift
done
[[ -n $data ]] || fail "which data directory? Usage: tools/validate_data_dir.sh [options] DATA"
toolkit validate_data_dir --data "$data" ${options[@]+"${options[@]}"}
