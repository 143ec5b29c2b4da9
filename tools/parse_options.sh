# Reads "--name value" and "--name=value" into the variables of the script that sources this file:
#
#   stage=1        # first stage to run
#   use_gpu=false  # train on a GPU
#   . tools/parse_options.sh
#
# An option is a lower-case variable (or HOST_NODE_ADDR, which users of other recipes know) that
# the script assigns at the start of a line above the line that sources this file, unless it takes
# the output of a command (here=$(pwd)) or is an array; dashes stand for underscores. A default of
# true or false takes only these two words and a whole number takes only whole numbers (write 1.0
# where fractions are welcome).
# Values are stored as they are, never evaluated. Words that are no options are refused, unless
# the script has set allow_arguments=true: then they are left in "$@". "--help" shows the script's
# $help_message, or its leading comment block, and the options with their defaults.
# Wrong options end the script with exit code 2. Needs bash 4.2 or newer.

declare -A _option_default=() _option_comment=()
_option_names=()
_option_words=0

# Finds the options of script $1 above its line $2.
_options_find() {
  local _line _name
  local _pattern='^([a-z][a-z0-9_]*|HOST_NODE_ADDR)=([^(]|$)'
  while IFS= read -r _line; do
    [[ $_line =~ $_pattern && $_line != *'=$('* && $_line != *'="$('* ]] || continue
    _name=${BASH_REMATCH[1]}
    [[ -v $_name && $_name != allow_arguments && $_name != help_message ]] || continue
    [[ -n ${_option_default[$_name]+known} ]] || _option_names+=("$_name")
    _option_default[$_name]=${!_name}
    _option_comment[$_name]=
    [[ $_line != *' # '* ]] || _option_comment[$_name]=${_line##*' # '}
  done < <(head -n "$2" -- "$1")
}

_options_fail() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit 2
}

# Shows the help text of script $1.
_options_help() {
  local _name
  if [[ -n ${help_message:-} ]]; then
    printf '%s\n' "$help_message"
  else
    awk 'NR == 1 && /^#!/ {next} /^#/ {sub(/^# ?/, ""); print; next} {exit}' "$1"
  fi
  printf '\nOptions (default):\n'
  for _name in ${_option_names[@]+"${_option_names[@]}"}; do
    printf '  --%-24s %s\n' "${_name//_/-} (${_option_default[$_name]})" "${_option_comment[$_name]}"
  done
}

_options_check_name() {
  local _name=${1#--} _known IFS=' '
  for _known in ${_option_names[@]+"${_option_names[@]}"}; do
    [[ $_known != "${_name//-/_}" ]] || return 0
  done
  _known=${_option_names[*]/#/--}
  _options_fail "unknown option $1; known options: ${_known//_/-}"
}

# Sets the option that word $1 names to value $2.
_options_set() {
  _options_check_name "$1"
  local _name=${1#--}
  _name=${_name//-/_}
  local _default=${_option_default[$_name]}
  if [[ $_default == true || $_default == false ]]; then
    [[ $2 == true || $2 == false ]] || _options_fail "$1 takes true or false, not '$2'"
  elif [[ $_default =~ ^-?[0-9]+$ ]]; then
    [[ $2 =~ ^-?[0-9]+$ ]] || _options_fail "$1 takes a whole number, not '$2'"
  fi
  printf -v "$_name" '%s' "$2"
}

# Reads the words after script $1 and counts in _option_words how many were options.
_options_read() {
  local _script=$1 _count=$#
  shift
  while (($# > 0)); do
    case $1 in
      --help | -h)
        _options_help "$_script"
        exit 0
        ;;
      --)
        shift
        break
        ;;
      --*=*)
        _options_set "${1%%=*}" "${1#*=}"
        shift
        ;;
      --*)
        if (($# == 1)) || [[ $2 =~ ^--[^[:space:]]*$ ]]; then
          _options_check_name "$1"
          _options_fail "$1 needs a value; write $1=VALUE if the value starts with dashes"
        fi
        _options_set "$1" "$2"
        shift 2
        ;;
      *) break ;;
    esac
  done
  _option_words=$((_count - 1 - $#))
  if (($# > 0)) && [[ ${allow_arguments:-false} != true ]]; then
    _options_fail "unexpected word '$1'; options are written --name value"
  fi
}

_options_find "${BASH_SOURCE[1]}" "${BASH_LINENO[0]}"
_options_read "${BASH_SOURCE[1]}" "$@"
shift "$_option_words"
unset -f _options_find _options_fail _options_help _options_check_name _options_set _options_read
unset _option_default _option_comment _option_names _option_words
