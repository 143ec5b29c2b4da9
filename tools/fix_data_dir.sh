#!/usr/bin/env bash
# Keeps only utterances that have everything, in all tables, and sorts; what was there before goes
# to DATA/.backup.
#
# Usage: tools/fix_data_dir.sh [options] DATA

. "$(dirname "${BASH_SOURCE[0]}")/toolkit.sh"

allow_arguments=true
utt_extra_files=  # without effect: all utt2* tables are mended
spk_extra_files=  # without effect: all spk2* tables are mended
audio=none        # headers: drop utterances whose audio is missing or unreadable
min_utterances=1  # drop speakers with fewer utterances
min_seconds=0.0   # drop shorter utterances
. "$_toolkit_root/tools/parse_options.sh"

(($# == 1)) || fail "one data directory is wanted. Usage: tools/fix_data_dir.sh [options] DATA"
toolkit fix_data_dir --data "$1" --audio "$audio" --min_utterances "$min_utterances" \
  --min_seconds "$min_seconds"
