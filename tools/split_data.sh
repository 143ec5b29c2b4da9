#!/usr/bin/env bash
# Splits a data directory into DATA/splitN/1 to N, speakers whole, or into DATA/splitNutt/1 to N.
#
# Usage: tools/split_data.sh [--per-utt] DATA N

. "$(dirname "${BASH_SOURCE[0]}")/toolkit.sh"

options=()
while (($# > 0)) && [[ $1 == -* ]]; do
  case $1 in
    --per[-_]utt) options=(--per_utt) ;;
    --help | -h) show_help ;;
    *) fail "unknown option $1; see --help" ;;
  esac
  shift
done
(($# == 2)) || fail "DATA and the number of parts are wanted; see --help"
toolkit split_data --data "$1" --parts "$2" ${options[@]+"${options[@]}"}
