#!/usr/bin/env bash
# Writes DATA/utt2dur from segments or, without, from the headers of the audio files.
#
# Usage: tools/get_utt2dur.sh [options] DATA

. "$(dirname "${BASH_SOURCE[0]}")/toolkit.sh"

allow_arguments=true
nj=1                    # without effect, as are the following
cmd=run.pl              # only headers are read, by this process
frame_shift=0.01        # features are not looked at
read_entire_file=false  # headers of cut files are refused
. "$_toolkit_root/tools/parse_options.sh"

(($# == 1)) || fail "one data directory is wanted. Usage: tools/get_utt2dur.sh [options] DATA"
toolkit get_utt2dur --data "$1"
