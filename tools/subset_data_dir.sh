#!/usr/bin/env bash
# Writes a part of a data directory, with all its tables.
#
# Usage: tools/subset_data_dir.sh [--seed N] [--first|--last|--shortest|--per-spk|--speakers] \
#            SOURCE NUMBER TARGET
#        tools/subset_data_dir.sh --spk-list|--utt-list FILE SOURCE TARGET
#   (no option)  NUMBER utterances at random
#   --first      the first ones, --last the last ones, in the order of the C locale
#   --shortest   the shortest ones; needs utt2dur or segments (tools/get_utt2dur.sh)
#   --per-spk    NUMBER of every speaker, spread evenly over its list
#   --speakers   speakers at random until there are NUMBER utterances
#   --spk-list   the speakers, --utt-list the utterances, that the lines of FILE begin with
#   --seed       of the random choices; 0 if not given

. "$(dirname "${BASH_SOURCE[0]}")/toolkit.sh"

way=
list=
seed=0
while (($# > 0)) && [[ $1 == -* ]]; do
  case $1 in
    --help | -h) show_help ;;
    --seed | --spk[-_]list | --utt[-_]list) (($# > 1)) || fail "$1 needs a value" ;;&
    --seed)
      seed=$2
      shift 2
      continue
      ;;
    --first | --last | --shortest | --speakers | --per[-_]spk | --spk[-_]list | --utt[-_]list)
      [[ -z $way ]] || fail "--$way and $1 do not go together"
      way=${1#--}
      ;;&
    --spk[-_]list | --utt[-_]list)
      list=$2
      shift
      ;;
    --first | --last | --shortest | --speakers | --per[-_]spk) ;;
    *) fail "unknown option $1; see --help" ;;
  esac
  shift
done
way=${way//-/_}

if [[ -n $list ]]; then
  (($# == 2)) || fail "SOURCE and TARGET are wanted after the list; see --help"
  toolkit subset_data_dir --src "$1" --out "$2" "--$way" "$list"
else
  (($# == 3)) || fail "SOURCE, NUMBER and TARGET are wanted; see --help"
  [[ $way != per_spk ]] || way=per_speaker
  toolkit subset_data_dir --src "$1" --out "$3" "--${way:-random}" "$2" --seed "$seed"
fi
