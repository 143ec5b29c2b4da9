# The stages of all recipes, as functions over the recipe's variables:
#
#   train eval     Kaldi data directories as the user has them
#   trials         trial lists on eval, with commas between them
#   enroll_map     "model utt1 utt2 ..." when the first trial column names models; may be empty
#   trial_speakers   speaker of every id of the trials, where eval does not tell; may be empty
#   musan rirs     noises and room responses, or empty for none
#   exp_dir        results and one folder per phase are written here
#   data           data directories, shards and noise bank are written here; empty: exp_dir/data
#   config         YAML file with the settings, or its name below the recipe's conf/
#   phases         phases of the file that stage 3 trains: names in order; "first" or "all"
#   next_phases    phases that stage 9 trains, evaluating each: names; "rest" or empty for none
#   gpus           GPUs of this node, such as 0,1 or [0,1]; empty for all that are visible
#   nproc num_nodes HOST_NODE_ADDR   processes per node, nodes, where they meet
#   nj num_avg top_n num_pairs       jobs, checkpoints averaged, AS-norm and calibration sizes
#   features       "qmf9" or "qmf7" (no durations): what the calibration looks at
#   average_options  further "--option value" words for average_model; may be empty
#   report_options   further words for the report, such as --by MAP; may be empty
#   report_words     array of further words for the report; may be empty
#   note           text below the results table; may be empty
#   untrained      true to extract and score with the untrained network too, for comparison
#   frontend backend   a pre-trained frontend, and a backend by name, in place of the file's
#   train_options  further "--section.key value" words for training
#
# Needs tools/steps.sh. A recipe calls begin_recipe first. Every function skips what is done and
# was made from the same input. What belongs to a phase lies in its folder, which is $system in the
# stages 4 to 8.

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
  local marker=$system/.done/$name signature whole=true
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

# The number of GPUs that torch can use.
count_gpus() {
  if command -v nvidia-smi >/dev/null; then # torch is slow to ask
    "$PYTHON" -c 'import torch; print(torch.cuda.device_count())'
  else
    echo 0
  fi
}

# Says what is wrong with the command line and leaves.
refuse() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# Prints the settings file that $1 names: a file, or a name below the recipe's conf/.
find_config() {
  local path
  for path in "$1" "$here/conf/$1.yaml"; do
    if [ -f "$path" ]; then
      printf '%s' "$path"
      return
    fi
  done
  refuse "no settings file $1, nor $here/conf/$1.yaml"
}

# Shows the GPUs of --gpus to torch and sets $num_gpus, and $nproc where it is 0.
choose_processes() {
  if [ -n "$gpus" ]; then
    gpus=${gpus//[\[\] ]/}
    [[ $gpus =~ ^[0-9]+(,[0-9]+)*$ ]] || refuse "--gpus takes numbers such as 0,1, not '$gpus'"
    export CUDA_VISIBLE_DEVICES=$gpus
  fi
  num_gpus=$(count_gpus)
  if [ -n "$gpus" ] && [ "$num_gpus" -lt "$(wc -w <<<"${gpus//,/ }")" ]; then
    refuse "--gpus $gpus: torch finds $num_gpus of these GPUs here"
  fi
  if [ "$nproc" -eq 0 ]; then
    nproc=$num_gpus
    [ "$nproc" -gt 0 ] || nproc=2
  fi
}

# Checks the settings that all recipes have, and sets what follows from them: $config, $data,
# $phase_list, $next_list and $overrides (arrays), $train_dir, $eval_dir, $system, $nproc,
# $num_gpus.
begin_recipe() {
  local known word before ready=' '
  one_phase=false
  config=$(find_config "$config") || exit 2
  known=$(run list_phases --config "$config") || exit 1
  read -ra known_phases <<<"${known//$'\n'/ }"
  if [ "${#known_phases[@]}" -eq 0 ]; then # one phase, called like the file
    word=${config##*/}
    known_phases=("${word%.yaml}")
    one_phase=true
  fi
  case $phases in
    first) phase_list=("${known_phases[0]}") ;;
    all) phase_list=("${known_phases[@]}") ;;
    *) read -ra phase_list <<<"$phases" ;;
  esac
  [ "${#phase_list[@]}" -gt 0 ] || refuse "--phases is empty; name phases of $config"
  if [ "$next_phases" = rest ]; then
    known=" ${known_phases[*]} "
    read -ra next_list <<<"${known#*" ${phase_list[-1]} "}"
  else
    read -ra next_list <<<"$next_phases"
  fi
  for word in "${phase_list[@]}" ${next_list[@]+"${next_list[@]}"}; do
    [[ " ${known_phases[*]} " == *" $word "* ]] ||
      refuse "no phase '$word' in $config; its phases: ${known_phases[*]}"
    before=$(phase_before "$word")
    if [ "$stop_stage" -ge 3 ] && [ -n "$before" ] && [[ $ready != *" $before "* ]] &&
      [ ! -e "$exp_dir/$before/final" ] && [ ! -e "$exp_dir/$word/final" ]; then
      refuse "phase '$word' starts from '$before', which $exp_dir does not have: name it before" \
        "'$word' in --phases"
    fi
    ready+="$word "
  done
  system=$exp_dir/${phase_list[-1]}
  data=${data:-$exp_dir/data}
  train_dir=$data/train eval_dir=$data/eval
  read -ra overrides <<<"${train_options//$'\n'/ }"
  [ -z "$frontend" ] || overrides+=(--frontend.config null --frontend.weights "$frontend")
  [ -z "$backend" ] || overrides+=(--backend.name "$backend")
  choose_processes
  if [ "$num_nodes" -gt 1 ]; then
    if [ "$stage" != 3 ] || [ "$stop_stage" != 3 ]; then
      refuse "only training runs on several nodes: run the other stages on one node, and" \
        "--stage 3 --stop_stage 3 with --num_nodes and --HOST_NODE_ADDR on all of them"
    fi
    [ -n "$HOST_NODE_ADDR" ] ||
      refuse "--num_nodes $num_nodes needs --HOST_NODE_ADDR HOST:PORT of one of them"
  fi
}

# run NAME ARGUMENTS...: one of the toolkit's commands.
run() {
  local name=$1
  shift
  "$PYTHON" -m "wesp_lap.bin.$name" "$@"
}

# Stage 0: everything that would stop a run hours later. Takes the options of the corpora.
stage_checks() {
  local phase listed=
  local -a words=(--exp_dir "$exp_dir" --data "$data" --config "$config" --nproc "$nproc")
  for phase in "${phase_list[@]}" ${next_list[@]+"${next_list[@]}"}; do
    listed+=${listed:+,}$phase
  done
  $one_phase || words+=(--phases "$listed")
  [ -z "$musan" ] || words+=(--musan "$musan")
  [ -z "$rirs" ] || words+=(--rirs "$rirs")
  run preflight "${words[@]}" "$@" ${overrides[@]+"${overrides[@]}"}
}

# Stage 1: checked copies of the data directories with absolute paths and durations.
stage_data() {
  # The audio is looked at when the directories are prepared.
  run validate_data_dir "$eval" --trials "$trials" --disjoint_from "$train" --audio none
  run prepare_data --src "$train" --out "$train_dir"
  run prepare_data --src "$eval" --out "$eval_dir"
}

# Stage 2: shards of the training set, and the noise bank.
stage_shards() {
  run make_shards --data "$train_dir" --out "$train_dir/shards" \
    --list "$train_dir/shard.list" --nj "$nj" --utterances_per_shard "$utterances_per_shard"
  if [ -n "$musan" ] && [ -n "$rirs" ]; then
    run make_noise_bank --out "$data/noise_bank" --musan "$musan" --rirs "$rirs"
  fi
}

# The phase that stands before phase $1 in the settings file, or nothing.
phase_before() {
  local word before=
  for word in "${known_phases[@]}"; do
    [ "$word" != "$1" ] || break
    before=$word
  done
  printf '%s' "$before"
}

# Stage 3: the given phases, each from the end of the one before it in the file.
stage_train() {
  local phase before
  local -a words options=(--data.shards "$train_dir/shard.list")
  if [ -n "$musan" ] && [ -n "$rirs" ]; then
    options+=(--data.noise_bank "$data/noise_bank")
  else
    log "  no noise bank (it takes --musan and --rirs): training without noise and reverberation"
    options+=(--data.augment.noise_prob 0)
  fi
  for phase in "$@"; do
    log "  phase $phase"
    words=(wesp_lap.bin.train --config "$config" --exp_dir "$exp_dir/$phase")
    $one_phase || words+=(--phase "$phase")
    before=$(phase_before "$phase")
    words+=("${options[@]}" ${before:+--init_from "$exp_dir/$before"})
    words+=(${overrides[@]+"${overrides[@]}"})
    if [ -e "$exp_dir/$phase/final" ]; then # it is done, or says what has changed since
      WORLD_SIZE=1 "$PYTHON" -m "${words[@]}"
    else
      launch_train "$nproc" "$num_nodes" "$HOST_NODE_ADDR" "${words[@]}"
    fi
  done
}

# embed ARGUMENTS...: extract embeddings, on all GPUs of this node or in processes on its cores.
embed() {
  if [ "$num_gpus" -gt 1 ] && [ "$nproc" -gt 1 ]; then
    launch_train "$nproc" 1 "" wesp_lap.bin.extract "$@"
  else
    run extract "$@" --nj "$nj"
  fi
}

# Stage 4: average the last checkpoints and extract with that model and with the untrained one.
stage_extract() {
  local set
  local -a source
  # shellcheck disable=SC2086  # several words are meant
  once average -i "$system/final/state.json" -o "$system/model/model.safetensors" -- \
    run average_model --exp_dir "$system" --out "$system/model" --num "$num_avg" \
    ${average_options-}
  for set in train eval; do
    # The shards hold the training set decoded, and side by side.
    source=(--shards "$train_dir/shard.list")
    [ "$set" = train ] || source=(--data "$eval_dir")
    embed --model "$system/model" "${source[@]}" --out "$system/embeddings/$set"
    if $untrained; then
      embed --model "$exp_dir/${known_phases[0]}/checkpoints/epoch_000" "${source[@]}" \
        --out "$exp_dir/untrained/embeddings/$set"
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
  local -a options files lists folders=("$system")
  mapfile -t lists < <(trial_lists)
  if $untrained; then
    folders=("$exp_dir/untrained" "$system")
  fi
  for folder in "${folders[@]}"; do
    mapfile -t options < <(scoring_options "$folder/embeddings")
    mapfile -t files < <(score_files "$folder/scores" "")
    once "score_${folder##*/}" -i "$folder"/embeddings/*/xvector.json "${lists[@]}" \
      ${enroll_map:+"$enroll_map"} -o "${files[@]}" -- \
      run score "${options[@]}" --out_dir "$folder/scores"
    [ "$folder" = "$system" ] || log "  the network before training:"
    run compute_metrics "${files[@]}"
  done
}

# Stage 6: AS-norm against the training speakers' means.
stage_norm() {
  local -a options files before
  mapfile -t options < <(scoring_options "$system/embeddings")
  mapfile -t before < <(score_files "$system/scores" "")
  mapfile -t files < <(score_files "$system/scores" .asnorm)
  once asnorm -i "$system"/embeddings/*/xvector.json "${before[@]}" \
    "$train_dir/utt2spk" ${enroll_map:+"$enroll_map"} -o "${files[@]}" -- \
    run score_norm "${options[@]}" --scores_dir "$system/scores" --top_n "$top_n" \
    --cohort_scp "$system/embeddings/train/xvector.scp" \
    --cohort_utt2spk "$train_dir/utt2spk"
  run compute_metrics "${files[@]}"
}

# Stage 7: quality-aware calibration, fitted on pairs of training utterances.
stage_calibrate() {
  local -a options files before
  mapfile -t options < <(scoring_options "$system/embeddings")
  mapfile -t before < <(score_files "$system/scores" .asnorm)
  mapfile -t files < <(score_files "$system/scores" .qmf)
  once calibrate -i "$system"/embeddings/*/xvector.json "${before[@]}" \
    "$train_dir/utt2dur" "$eval_dir/utt2dur" "$train_dir/utt2spk" \
    ${enroll_map:+"$enroll_map"} -o "${files[@]}" "$system/scores/calibration.json" -- \
    run calibrate "${options[@]}" --scores_dir "$system/scores" --out_dir "$system/scores" \
    --test_utt2dur "$eval_dir/utt2dur" --top_n "$top_n" --num_pairs "$num_pairs" \
    --features "$features" --cohort_scp "$system/embeddings/train/xvector.scp" \
    --cohort_utt2spk "$train_dir/utt2spk" --cohort_utt2dur "$train_dir/utt2dur"
  run compute_metrics "${files[@]}" --llr
}

quietly() { "$@" >/dev/null; }

# Stage 8: model, mean, calibration and card in one directory, loaded again and checked.
stage_export() {
  # The card of the model shows the results.
  once results -i "$system"/scores/*.score -o "$system/results.tsv" -- \
    quietly run report --trials "$trials" --scores "$system/scores" --out "$system"
  once export -i "$system/model/model.safetensors" "$system/results.tsv" \
    "$system/scores/calibration.json" -o "$system/export/manifest.json" -- \
    run export --model "$system/model" --out "$system/export" \
    --mean_scp "$system/embeddings/train/xvector.scp" --results "$system/results.tsv" \
    --calibration "$system/scores/calibration.json" \
    --check_scp "$system/embeddings/eval/xvector.scp" --check_data "$eval_dir"
}

# Stage 9: the next phases, each with the stages 4 to 8 of its own.
stage_next_phases() {
  local phase
  for phase in ${next_list[@]+"${next_list[@]}"}; do
    system=$exp_dir/$phase
    stage_train "$phase"
    log "  evaluation of phase $phase"
    stage_extract
    stage_score
    stage_norm
    stage_calibrate
    stage_export
  done
}

# Stage 10: the results table and page of all phases that have scores.
stage_report() {
  local phase dirs= scores= scored=0
  local -a options=()
  for phase in "${known_phases[@]}"; do
    [ ! -e "$exp_dir/$phase/final" ] || dirs+=${dirs:+,}$exp_dir/$phase
    [ ! -d "$exp_dir/$phase/scores" ] || scored=$((scored + 1))
  done
  $untrained && scores="untrained=$exp_dir/untrained/scores"
  for phase in "${known_phases[@]}"; do
    [ -d "$exp_dir/$phase/scores" ] || continue
    scores+=${scores:+,}
    [ "$scored" -eq 1 ] || scores+=$phase=
    scores+=$exp_dir/$phase/scores
  done
  # Confidence intervals take the speakers of both sides, also of the models of an enrolment map.
  if [ -z "$enroll_map" ] || [ -n "${trial_speakers-}" ]; then
    options+=(--bootstrap 1000 --utt2spk "${trial_speakers:-$eval_dir/utt2spk}")
  fi
  # shellcheck disable=SC2086  # several words are meant
  run report --trials "$trials" --scores "$scores" --out "$exp_dir" --phases "$dirs" \
    --note "$note" ${options[@]+"${options[@]}"} ${report_words[@]+"${report_words[@]}"} \
    ${report_options-}
  log "  results: $exp_dir/results.md, $exp_dir/results.tsv"
  link_export
}

# Lets $exp_dir/export point to the export of the last phase that has one.
link_export() {
  local phase last=
  for phase in "${known_phases[@]}"; do
    [ ! -d "$exp_dir/$phase/export" ] || last=$phase
  done
  if [ -n "$last" ] && { [ -L "$exp_dir/export" ] || [ ! -e "$exp_dir/export" ]; }; then
    ln -sfn "$last/export" "$exp_dir/export"
    log "  model: $exp_dir/export, of phase $last"
  fi
}

# The stages from 2, or from $1, to 10, the same for all recipes.
run_common_stages() {
  if [ "${1:-2}" -le 2 ] && run_stage 2 "shards and noise bank"; then stage_shards; fi
  if run_stage 3 "training"; then stage_train "${phase_list[@]}"; fi
  if run_stage 4 "checkpoint average and extraction"; then stage_extract; fi
  if run_stage 5 "cosine scores"; then stage_score; fi
  if run_stage 6 "AS-norm"; then stage_norm; fi
  if run_stage 7 "calibration"; then stage_calibrate; fi
  if run_stage 8 "export"; then stage_export; fi
  if [ "${#next_list[@]}" -gt 0 ] && run_stage 9 "next phases"; then stage_next_phases; fi
  if run_stage 10 "report"; then stage_report; fi
}
