# The stages of all recipes, as functions over the recipe's variables:
#
#   train eval     Kaldi data directories as the user has them
#   trials         trial lists on eval, with commas between them
#   enroll_map     "model utt1 utt2 ..." when the first trial column names models; may be empty
#   musan rirs     noises and room responses, or empty for none
#   exp_dir        everything is written below it
#   conf phases    folder of settings, and which of its files are trained, in order
#   nproc num_nodes HOST_NODE_ADDR   processes per node, nodes, where they meet
#   nj num_avg top_n num_pairs       jobs, checkpoints averaged, AS-norm and calibration sizes
#   average_options  further "--option value" words for average_model; may be empty
#   note           text below the results table; may be empty
#   untrained      true to extract and score with the untrained network too, for comparison
#   overrides      array of further "--section.key value" words for training
#
# Needs tools/steps.sh. Every function skips what is done and was made from the same input.

# once NAME -i INPUT... -o OUTPUT... -- COMMAND...: run a command unless it was run before with the
# same words, its inputs hold what they held then, and its outputs are there.
once() {
  local name=$1 mode= word
  local -a inputs=() outputs=()
  shift
  while [ "$1" != -- ]; do
    case $1 in
      -i | -o) mode=$1 ;;
      *) if [ "$mode" = -i ]; then inputs+=("$1"); else outputs+=("$1"); fi ;;
    esac
    shift
  done
  shift
  local marker=$exp_dir/.done/$name signature whole=true
  for word in "${inputs[@]}"; do
    if [ ! -e "$word" ]; then
      log "  $name: no such input: $word; run the stages before this one first" >&2
      return 1
    fi
  done
  signature="$*"$'\n'$(cksum -- "${inputs[@]}")
  for word in "${outputs[@]}"; do
    [ -e "$word" ] || whole=false
  done
  if $whole && [ -f "$marker" ] && [ "$signature" = "$(cat "$marker")" ]; then
    log "  $name: up to date"
    return
  fi
  rm -f "$marker"
  "$@"
  mkdir -p "${marker%/*}"
  printf '%s\n' "$signature" >"$marker"
}

# Processes for --nproc 0: one per GPU that torch can use, and two where there is none.
default_processes() {
  local gpus=0
  if command -v nvidia-smi >/dev/null; then # torch is slow to ask
    gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
  fi
  if [ "$gpus" -gt 0 ]; then echo "$gpus"; else echo 2; fi
}

# Refuses settings with which no stage could do its work.
check_recipe() {
  local word
  local -a words
  read -ra words <<<"$phases"
  phases=${words[*]-} # one space between two, none at the ends
  if [ -z "$phases" ]; then
    echo "${0##*/}: --phases is empty; name at least one YAML file of $conf" >&2
    exit 2
  fi
  for word in $phases; do
    if [ ! -f "$conf/$word.yaml" ]; then
      echo "${0##*/}: phase $word: no such file: $conf/$word.yaml" >&2
      exit 2
    fi
  done
  if [ "$num_nodes" -gt 1 ]; then
    if [ "$stage" != 3 ] || [ "$stop_stage" != 3 ]; then
      echo "${0##*/}: only training runs on several nodes: run the other stages on one node, and" \
        "--stage 3 --stop_stage 3 with --num_nodes and --HOST_NODE_ADDR on all of them" >&2
      exit 2
    fi
    if [ -z "$HOST_NODE_ADDR" ]; then
      echo "${0##*/}: --num_nodes $num_nodes needs --HOST_NODE_ADDR HOST:PORT of one of them" >&2
      exit 2
    fi
  fi
}

# run NAME ARGUMENTS...: one of the toolkit's commands.
run() {
  local name=$1
  shift
  "$PYTHON" -m "wesp_lap.bin.$name" "$@"
}

# Stage 1: checked copies of the data directories with absolute paths and durations.
stage_data() {
  # The audio is looked at when the directories are prepared.
  run validate_data_dir "$eval" --trials "$trials" --disjoint_from "$train" --audio none
  run prepare_data --src "$train" --out "$exp_dir/data/train"
  run prepare_data --src "$eval" --out "$exp_dir/data/eval"
}

# Stage 2: shards of the training set, and the noise bank.
stage_shards() {
  run make_shards --data "$exp_dir/data/train" --out "$exp_dir/data/train/shards" \
    --list "$exp_dir/data/train/shard.list" --nj "$nj" \
    --utterances_per_shard "$utterances_per_shard"
  if [ -n "$musan" ] && [ -n "$rirs" ]; then
    run make_noise_bank --out "$exp_dir/data/noise_bank" --musan "$musan" --rirs "$rirs"
  fi
}

# Stage 3: the phases, each from the end of the one before.
stage_train() {
  local phase before=
  local -a words options=(--data.shards "$exp_dir/data/train/shard.list")
  if [ -n "$musan" ] && [ -n "$rirs" ]; then
    options+=(--data.noise_bank "$exp_dir/data/noise_bank")
  else
    log "  no noise bank (it takes --musan and --rirs): training without noise and reverberation"
    options+=(--data.augment.noise_prob 0)
  fi
  for phase in $phases; do
    log "  phase $phase"
    words=(wesp_lap.bin.train --config "$conf/$phase.yaml" --exp_dir "$exp_dir/$phase")
    words+=("${options[@]}" ${before:+--init_from "$before"} ${overrides[@]+"${overrides[@]}"})
    if [ -e "$exp_dir/$phase/final" ]; then # it is done, or says what has changed since
      WORLD_SIZE=1 "$PYTHON" -m "${words[@]}"
    else
      launch_train "$nproc" "$num_nodes" "$HOST_NODE_ADDR" "${words[@]}"
    fi
    before=$exp_dir/$phase
  done
}

first_phase() { printf '%s/%s' "$exp_dir" "${phases%% *}"; }

last_phase() { printf '%s/%s' "$exp_dir" "${phases##* }"; }

# Stage 4: average the last checkpoints and extract with that model and with the untrained one.
stage_extract() {
  local set
  # shellcheck disable=SC2086  # several words are meant
  once average -i "$(last_phase)/final/state.json" -o "$exp_dir/model/model.safetensors" -- \
    run average_model --exp_dir "$(last_phase)" --out "$exp_dir/model" --num "$num_avg" \
    ${average_options-}
  for set in train eval; do
    run extract --model "$exp_dir/model" --data "$exp_dir/data/$set" \
      --out "$exp_dir/embeddings/$set" --nj "$nj"
    if $untrained; then
      run extract --model "$(first_phase)/checkpoints/epoch_000" --data "$exp_dir/data/$set" \
        --out "$exp_dir/untrained/embeddings/$set" --nj "$nj"
    fi
  done
}

# The trial lists, one a line.
trial_lists() { printf '%s\n' "${trials//,/$'\n'}"; }

# The score files of all trial lists in folder $1 with suffix $2, one a line.
score_files() {
  local list
  while read -r list; do
    printf '%s/%s%s.score\n' "$1" "${list##*/}" "$2"
  done < <(trial_lists)
}

# Options that the scoring commands share, for embeddings below $1.
scoring_options() {
  printf '%s\n' --trials "$trials" --enroll_scp "$1/eval/xvector.scp" \
    --mean_scp "$1/train/xvector.scp"
  [ -z "$enroll_map" ] || printf '%s\n' --enroll_map "$enroll_map"
}

# Stage 5: cosine with mean subtraction, of the trained and of the untrained network.
stage_score() {
  local folder
  local -a options files lists folders=("$exp_dir")
  mapfile -t lists < <(trial_lists)
  if $untrained; then
    folders=("$exp_dir/untrained" "$exp_dir")
  fi
  for folder in "${folders[@]}"; do
    mapfile -t options < <(scoring_options "$folder/embeddings")
    mapfile -t files < <(score_files "$folder/scores" "")
    once "score_${folder##*/}" -i "$folder"/embeddings/*/xvector.json "${lists[@]}" \
      ${enroll_map:+"$enroll_map"} -o "${files[@]}" -- \
      run score "${options[@]}" --out_dir "$folder/scores"
    [ "$folder" = "$exp_dir" ] || log "  the network before training:"
    run compute_metrics "${files[@]}"
  done
}

# Stage 6: AS-norm against the training speakers' means.
stage_norm() {
  local -a options files before
  mapfile -t options < <(scoring_options "$exp_dir/embeddings")
  mapfile -t before < <(score_files "$exp_dir/scores" "")
  mapfile -t files < <(score_files "$exp_dir/scores" .asnorm)
  once asnorm -i "$exp_dir"/embeddings/*/xvector.json "${before[@]}" \
    "$exp_dir/data/train/utt2spk" ${enroll_map:+"$enroll_map"} -o "${files[@]}" -- \
    run score_norm "${options[@]}" --scores_dir "$exp_dir/scores" --top_n "$top_n" \
    --cohort_scp "$exp_dir/embeddings/train/xvector.scp" \
    --cohort_utt2spk "$exp_dir/data/train/utt2spk"
  run compute_metrics "${files[@]}"
}

# Stage 7: quality-aware calibration, fitted on pairs of training utterances.
stage_calibrate() {
  local -a options files before
  mapfile -t options < <(scoring_options "$exp_dir/embeddings")
  mapfile -t before < <(score_files "$exp_dir/scores" .asnorm)
  mapfile -t files < <(score_files "$exp_dir/scores" .qmf)
  once calibrate -i "$exp_dir"/embeddings/*/xvector.json "${before[@]}" \
    "$exp_dir"/data/{train,eval}/utt2dur "$exp_dir/data/train/utt2spk" \
    ${enroll_map:+"$enroll_map"} -o "${files[@]}" "$exp_dir/scores/calibration.json" -- \
    run calibrate "${options[@]}" --scores_dir "$exp_dir/scores" --out_dir "$exp_dir/scores" \
    --test_utt2dur "$exp_dir/data/eval/utt2dur" --top_n "$top_n" --num_pairs "$num_pairs" \
    --cohort_scp "$exp_dir/embeddings/train/xvector.scp" \
    --cohort_utt2spk "$exp_dir/data/train/utt2spk" \
    --cohort_utt2dur "$exp_dir/data/train/utt2dur"
  run compute_metrics "${files[@]}" --llr
}

# Options of the report command, one a line.
report_options() {
  printf '%s\n' --trials "$trials" --scores_dir "$exp_dir/scores" --out "$exp_dir"
  if $untrained; then
    printf '%s\n' --untrained_scores_dir "$exp_dir/untrained/scores"
  fi
}

quietly() { "$@" >/dev/null; }

# Stage 8: model, mean, calibration and card in one directory, loaded again and checked.
stage_export() {
  local -a options
  mapfile -t options < <(report_options)
  # The card of the model shows the results.
  once results -i "$exp_dir"/scores/*.score -o "$exp_dir/results.tsv" -- \
    quietly run report "${options[@]}"
  once export -i "$exp_dir/model/model.safetensors" "$exp_dir/results.tsv" \
    "$exp_dir/scores/calibration.json" -o "$exp_dir/export/manifest.json" -- \
    run export --model "$exp_dir/model" --out "$exp_dir/export" \
    --mean_scp "$exp_dir/embeddings/train/xvector.scp" --results "$exp_dir/results.tsv" \
    --calibration "$exp_dir/scores/calibration.json" \
    --check_scp "$exp_dir/embeddings/eval/xvector.scp" --check_data "$exp_dir/data/eval"
}

# Stage 10: the results table and page.
stage_report() {
  local phase dirs=
  local -a options
  for phase in $phases; do
    dirs+=${dirs:+,}$exp_dir/$phase
  done
  mapfile -t options < <(report_options)
  # Confidence intervals take the speakers of both sides; models of an enrolment map have no line.
  [ -n "$enroll_map" ] || options+=(--bootstrap 1000 --utt2spk "$exp_dir/data/eval/utt2spk")
  run report "${options[@]}" --phases "$dirs" --note "$note"
  log "  results: $exp_dir/results.md, $exp_dir/results.tsv; model: $exp_dir/export"
}

# Stages 2 to 10, the same for all recipes. 9 is free: the later phases belong to stage 3.
run_common_stages() {
  if run_stage 2 "shards and noise bank"; then stage_shards; fi
  if run_stage 3 "training"; then stage_train; fi
  if run_stage 4 "checkpoint average and extraction"; then stage_extract; fi
  if run_stage 5 "cosine scores"; then stage_score; fi
  if run_stage 6 "AS-norm"; then stage_norm; fi
  if run_stage 7 "calibration"; then stage_calibrate; fi
  if run_stage 8 "export"; then stage_export; fi
  if run_stage 10 "report"; then stage_report; fi
}
