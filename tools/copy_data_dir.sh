#!/usr/bin/env bash
# Copies a data directory, with other names if wanted, or some of its speakers or utterances.
#
# Usage: tools/copy_data_dir.sh [options] SOURCE TARGET [options]

. "$(dirname "${BASH_SOURCE[0]}")/toolkit.sh"

directories=()
while (($# > 0)) && [[ $1 != -* ]]; do
  directories+=("$1")
  shift
done

allow_arguments=true
utt_prefix=            # what to put before every utterance
utt_suffix=            # what to put behind every utterance
spk_prefix=            # what to put before every speaker
spk_suffix=            # what to put behind every speaker
utt_list=              # copy only the utterances that the lines of this file begin with
spk_list=              # copy only the speakers that the lines of this file begin with
validate_opts=         # without effect: the source is checked in any case
update_wav_path=false  # without effect: audio paths are made absolute
. "$_toolkit_root/tools/parse_options.sh"

directories+=("$@")
((${#directories[@]} == 2)) || fail "SOURCE and TARGET are wanted; see --help"
if [[ -n $utt_list || -n $spk_list ]]; then
  [[ -z $utt_prefix$utt_suffix$spk_prefix$spk_suffix ]] ||
    fail "a list and other names do not go together; make the subset first"
  [[ -z $utt_list || -z $spk_list ]] || fail "--utt-list and --spk-list do not go together"
  toolkit subset_data_dir --src "${directories[0]}" --out "${directories[1]}" \
    ${utt_list:+--utt_list "$utt_list"} ${spk_list:+--spk_list "$spk_list"}
else
  toolkit copy_data_dir --src "${directories[0]}" --out "${directories[1]}" \
    --utt_prefix="$utt_prefix" --utt_suffix="$utt_suffix" \
    --spk_prefix="$spk_prefix" --spk_suffix="$spk_suffix"
fi
