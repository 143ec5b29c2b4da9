# The stages of self-pre-training, as functions over the recipe's variables:
#
#   pretrain_dir     clusters, labels and encoders are written here
#   pretrain_config  YAML file with the settings, or its name below the recipe's conf/
#   pretrain_phases  its phases in order: the first one learns the clusters of MFCC frames, every
#                    other one those of a layer of the encoder before it
#   num_clusters     clusters of each phase, in order: "100 500"
#   label_layer      Transformer layer, counted from 1, whose output is clustered
#   fraction         share of the utterances that clusters are learnt from
#   pretrain_options further "--section.key value" words for pre-training
#
# and train_dir (with shard.list), data, musan, rirs (for noise), nj, nproc and those of
# tools/stages.sh, which must be sourced before; run_pretraining and what it calls also take config,
# random_config, public_config, controls, baseline, corpus_words (array) and corpus_name. Functions
# skip what is done and was made from the same input.

# The folder of the encoder that phase $1 has trained.
encoder_of() { printf '%s/%s/encoder' "$pretrain_dir" "$1"; }

# Reads the phases and the number of clusters of each.
begin_pretraining() {
  local known
  pretrain_config=$(find_config "$pretrain_config") || exit 2
  known=$(run list_phases --config "$pretrain_config") || exit 1
  if [ "$pretrain_phases" = all ]; then
    read -ra pretrain_list <<<"${known//$'\n'/ }"
  else
    read -ra pretrain_list <<<"$pretrain_phases"
  fi
  read -ra cluster_list <<<"$num_clusters"
  read -ra pretrain_overrides <<<"${pretrain_options//$'\n'/ }"
  [ "${#pretrain_list[@]}" -gt 0 ] || refuse "no phases in $pretrain_config"
  [ "${#cluster_list[@]}" -ge "${#pretrain_list[@]}" ] ||
    refuse "--num_clusters '$num_clusters' needs a number for each of: ${pretrain_list[*]}"
}

# pretrain_labels N: clusters, and the labels of all utterances, for the phase number N (from 0).
pretrain_labels() {
  local folder=$pretrain_dir/${pretrain_list[$1]} encoder
  local -a source=(--features mfcc)
  if [ "$1" -gt 0 ]; then
    encoder=$(encoder_of "${pretrain_list[$1 - 1]}")
    source=(--features layer --model "$encoder" --layer "$label_layer")
  fi
  run learn_clusters --shards "$train_dir/shard.list" --out "$folder/clusters" "${source[@]}" \
    --num_clusters "${cluster_list[$1]}" --fraction "$fraction" --nj "$nj"
  run make_labels --shards "$train_dir/shard.list" --clusters "$folder/clusters" \
    --out "$folder/labels" --nj "$nj"
}

# pretrain_encoder N: masked prediction of the labels of phase number N; ends in its encoder.
pretrain_encoder() {
  local phase=${pretrain_list[$1]}
  local folder=$pretrain_dir/$phase
  local -a words=(wesp_lap.bin.pretrain --config "$pretrain_config" --phase "$phase")
  words+=(--exp_dir "$folder" --labels "$folder/labels" --data.shards "$train_dir/shard.list")
  if [ -n "$musan" ] && [ -n "$rirs" ]; then
    words+=(--data.noise_bank "$data/noise_bank") # for mixing.noise_prob
  fi
  words+=(${pretrain_overrides[@]+"${pretrain_overrides[@]}"})
  if [ -e "$folder/final" ]; then # it is done, or says what has changed since
    WORLD_SIZE=1 "$PYTHON" -m "${words[@]}"
  else
    launch_train "$nproc" "$num_nodes" "$HOST_NODE_ADDR" "${words[@]}"
  fi
}

# Refuses what would stop the stages 7 to 9 days later, and more nodes where they cannot be used.
check_experiments() {
  local name
  for name in $controls; do
    case $name in
      random | public) ;;
      *) refuse "--controls are random and public, not '$name'" ;;
    esac
  done
  if [[ -n $baseline && " self_pretrained $controls " != *" $baseline "* ]]; then
    refuse "--baseline $baseline is not among: self_pretrained $controls; an empty one compares" \
      "with nothing"
  fi
  if [ "$num_nodes" -gt 1 ]; then
    if [ "$stage" != "$stop_stage" ] || ((stage < 3 || stage > 6 || stage % 2)); then
      refuse "only pre-training runs on several nodes: stages 4 and 6, each by itself on all of" \
        "them, the other stages on one; for fine-tuning on several nodes see run.sh"
    fi
    [ -n "$HOST_NODE_ADDR" ] ||
      refuse "--num_nodes $num_nodes needs --HOST_NODE_ADDR HOST:PORT of one of them"
  fi
}

# The settings of experiment $1.
settings_of() {
  case $1 in
    self_pretrained) printf '%s' "$config" ;;
    random) printf '%s' "$random_config" ;;
    public) printf '%s' "$public_config" ;;
  esac
}

# Stage 0: the checks of run.sh, and what the other experiments need.
check_pretraining() {
  local name
  for name in self_pretrained $controls; do check_phases "$(settings_of "$name")"; done
  recipe_stage 0
  log "  settings of pre-training:"
  local -a words=(--exp_dir "$exp_dir" --data "$data" --nproc "$nproc")
  [ -z "$musan" ] || [ -z "$rirs" ] || words+=(--data.noise_bank "$data/noise_bank")
  run preflight "${words[@]}" --pretrain_config "$pretrain_config" \
    ${pretrain_overrides[@]+"${pretrain_overrides[@]}"}
  if [[ " $controls " == *" public "* ]]; then
    log "  settings of the public encoder:"
    run preflight --exp_dir "$exp_dir" --data "$data" --nproc "$nproc" \
      --config "$(find_config "$public_config")"
  fi
}

# Refuses --phases and --next_phases that settings $1 do not have.
check_phases() {
  local path known word
  path=$(find_config "$1") || exit 2
  known=$(run list_phases --config "$path") || exit 1
  for word in $phases $next_phases; do
    case $word in first | all | rest) continue ;; esac
    [[ " ${known//$'\n'/ } " == *" $word "* ]] ||
      refuse "no phase '$word' in $path, which stage 7 or 8 takes; its phases: ${known//$'\n'/ }"
  done
}

# Stage $1 of run.sh, from 0 to 2, with settings that need no encoder.
recipe_stage() {
  # shellcheck disable=SC2086  # several words are meant
  bash "$here/run.sh" --stage "$1" --stop_stage "$1" "${corpus_words[@]}" "${common_words[@]}" \
    --exp_dir "$exp_dir" --config "$random_config" $run_options
}

# fine_tune NAME ARGUMENTS...: run.sh of this recipe, from training to the report, as experiment
# NAME.
fine_tune() {
  local name=$1
  shift
  log "  fine-tuning: $name"
  # shellcheck disable=SC2086  # several words are meant
  bash "$here/run.sh" --stage 3 --stop_stage 10 "${corpus_words[@]}" "${common_words[@]}" \
    --exp_dir "$exp_dir/tuned/$name/$corpus_name" --config "$(settings_of "$name")" \
    --phases "$phases" --next_phases "$next_phases" "$@" $run_options
}

# All stages of run_pretrain.sh.
run_pretraining() {
  local number name
  local -a titles
  pretrain_dir=$exp_dir/pretraining
  choose_processes
  check_experiments
  begin_pretraining
  common_words=(--gpus "$gpus" --nproc "$nproc" --num_nodes "$num_nodes"
    --HOST_NODE_ADDR "$HOST_NODE_ADDR" --nj "$nj")
  titles=("checks" "data directories" "shards and noise bank")
  for number in 0 1 2; do
    run_stage "$number" "${titles[$number]}, by run.sh" || continue
    if [ "$number" -eq 0 ]; then check_pretraining; else recipe_stage "$number"; fi
  done
  for number in "${!pretrain_list[@]}"; do
    name=${pretrain_list[$number]}
    if run_stage $((2 * number + 3)) "clusters and labels of $name"; then
      pretrain_labels "$number"
    fi
    if run_stage $((2 * number + 4)) "pre-training, $name"; then pretrain_encoder "$number"; fi
  done
  if run_stage 7 "fine-tuning"; then
    fine_tune self_pretrained --frontend "$(encoder_of "${pretrain_list[-1]}")"
  fi
  if [ -n "$controls" ] && run_stage 8 "controls"; then
    for name in $controls; do fine_tune "$name"; done
  fi
  if run_stage 9 "comparison"; then
    run transfer_grid --cells "$exp_dir/tuned" --out "$exp_dir" ${baseline:+--baseline "$baseline"}
  fi
}
