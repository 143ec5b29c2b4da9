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
# and train_dir (with shard.list), nj, nproc and those of tools/stages.sh, which must be sourced
# before. Functions skip what is done and was made from the same input.

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
  read -ra pretrain_overrides <<<"$pretrain_options"
  [ "${#pretrain_list[@]}" -gt 0 ] || refuse "no phases in $pretrain_config"
  [ "${#cluster_list[@]}" -ge "${#pretrain_list[@]}" ] ||
    refuse "--num_clusters '$num_clusters' needs a number for each of: ${pretrain_list[*]}"
}

# pretrain_labels N: clusters, and the labels of all utterances, for the phase number N (from 0).
pretrain_labels() {
  local phase=${pretrain_list[$1]} system=$pretrain_dir folder input=$train_dir/shard.list
  local -a source=(--features mfcc)
  folder=$pretrain_dir/$phase
  if [ "$1" -gt 0 ]; then
    input=$(encoder_of "${pretrain_list[$1 - 1]}")
    source=(--features layer --model "$input" --layer "$label_layer")
    input=$input/model.safetensors
  fi
  once "clusters_$phase" -i "$train_dir/shard.list" "$input" \
    -o "$folder/clusters/clusters.safetensors" -- \
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
  words+=(${pretrain_overrides[@]+"${pretrain_overrides[@]}"})
  if [ -e "$folder/final" ]; then # it is done, or says what has changed since
    WORLD_SIZE=1 "$PYTHON" -m "${words[@]}"
  else
    launch_train "$nproc" "$num_nodes" "$HOST_NODE_ADDR" "${words[@]}"
  fi
}

# fine_tune NAME CONFIG ARGUMENTS...: run.sh of this recipe with settings CONFIG, from training to
# the report, as experiment NAME.
fine_tune() {
  local name=$1 settings=$2
  shift 2
  log "  fine-tuning: $name"
  # shellcheck disable=SC2086  # several words are meant
  bash "$here/run.sh" --stage 3 --stop_stage 10 "${corpus_words[@]}" "${common_words[@]}" \
    --exp_dir "$exp_dir/tuned/$name/$corpus_name" --config "$settings" \
    --phases "$phases" --next_phases "$next_phases" "$@" $run_options
}

# Prints and plots the experiments of fine_tune beside each other.
compare_experiments() {
  local last
  last=$(run list_phases --config "$(find_config "$config")" | tail -n 1)
  case $next_phases in
    rest) last="$last cosine" ;;
    *) last=cosine ;;
  esac
  run transfer_grid --cells "$exp_dir/tuned" --out "$exp_dir" --method "$last" \
    ${baseline:+--baseline "$baseline"}
}

# All stages of run_pretrain.sh.
run_pretraining() {
  local number name
  local -a titles
  choose_processes
  begin_pretraining
  common_words=(--gpus "$gpus" --nproc "$nproc" --num_nodes "$num_nodes"
    --HOST_NODE_ADDR "$HOST_NODE_ADDR" --nj "$nj")
  titles=("checks" "data directories" "shards and noise bank")
  for number in 0 1 2; do
    if run_stage "$number" "${titles[$number]}, by run.sh"; then
      # shellcheck disable=SC2086  # several words are meant
      bash "$here/run.sh" --stage "$number" --stop_stage "$number" "${corpus_words[@]}" \
        "${common_words[@]}" --exp_dir "$exp_dir" --config "$random_config" $run_options
    fi
  done
  for number in "${!pretrain_list[@]}"; do
    name=${pretrain_list[$number]}
    if run_stage $((2 * number + 3)) "clusters and labels of $name"; then
      pretrain_labels "$number"
    fi
    if run_stage $((2 * number + 4)) "pre-training, $name"; then pretrain_encoder "$number"; fi
  done
  if run_stage 7 "fine-tuning"; then
    fine_tune self_pretrained "$config" --frontend "$(encoder_of "${pretrain_list[-1]}")"
  fi
  if [ -n "$controls" ] && run_stage 8 "controls"; then
    for name in $controls; do
      case $name in
        random) fine_tune random "$random_config" ;;
        public) fine_tune public "$public_config" ;;
        *) refuse "--controls are random and public, not '$name'" ;;
      esac
    done
  fi
  if run_stage 9 "comparison"; then compare_experiments; fi
}
