#!/usr/bin/env bash
# Makes one data directory of several. Equal keys must have equal content; a table that only some
# have is left out, but for segments and utt2uniq, which are completed.
#
# Usage: tools/combine_data.sh [options] TARGET SOURCE...

. "$(dirname "${BASH_SOURCE[0]}")/toolkit.sh"

allow_arguments=true
extra_files=    # without effect: all utt2*, spk2* and reco2* tables are combined
skip_fix=false  # without effect: what is written needs no mending
. "$_toolkit_root/tools/parse_options.sh"

(($# >= 2)) || fail "TARGET and at least one SOURCE are wanted; see --help"
toolkit combine_data "$@"
