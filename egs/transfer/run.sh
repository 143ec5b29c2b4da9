#!/usr/bin/env bash
# Encoders across corpora: pre-trains one on each corpus, tunes a backend on each corpus with each
# of them frozen, and draws the grid of error rates (self-pre-training paper, figure 2).
#
#   bash egs/transfer/run.sh --exp_dir DIR --public facebook/hubert-base-ls960 \
#       --sets "vox1=TRAIN:EVAL:TRIALS cn1=TRAIN:EVAL:TRIALS"
#
# TRAIN and EVAL are Kaldi data directories, as the recipes of the corpora prepare them, TRIALS a
# list on EVAL; no spaces in these paths. An encoder that exists already is taken with --encoders.
#
# Stages:
#    1  data directories            2  shards and noise bank
#    3  an encoder for each corpus: clusters, labels and masked prediction, twice
#    4  each corpus tuned with each encoder, and with the public one
#    5  table and heat map
# A second run skips what is done.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

stage=1                              # first stage to run
stop_stage=5                         # last stage to run
sets=                                # corpora in quotes: "NAME=TRAIN:EVAL:TRIALS ..."
encoders=                            # encoders in quotes: "NAME=DIR ..."; others are pre-trained
public=                              # public encoder to compare with: hub name or directory
musan=                               # MUSAN
rirs=                                # RIRS_NOISES
exp_dir=                             # everything is written here
data=                                # data directories, shards, noise bank; empty: EXP_DIR/data
pretrain_config=$here/../voxceleb/conf/pretraining/hubert.yaml  # settings of pre-training
pretrain_options=                    # further settings of pre-training, in quotes
num_clusters="100 500"               # clusters of each of its phases
label_layer=6                        # layer that is clustered for the second one, from 1
fraction=0.1                         # share of the utterances that clusters are learnt from
config=$here/../voxceleb/conf/self_pretraining/ecapa.yaml  # settings of tuning
phases=first                         # its phases: names in order, "first" or "all"
train_options=                       # further settings of tuning, in quotes
gpus=                                # GPUs to train on, such as 0,1; empty: all that are visible
nproc=0                              # training processes; 0: one per GPU
nj=0                                 # jobs for shards, labels and extraction; 0: one per core
num_avg=1                            # checkpoints to average
utterances_per_shard=1000            # size of a shard

[ $# -gt 0 ] || set -- --help
. "$here/../../tools/parse_options.sh"
if [ -z "$exp_dir" ] || [ -z "$sets" ]; then
  echo "${0##*/}: give --exp_dir and --sets; see --help" >&2
  exit 2
fi
next_phases='' backend='' num_nodes=1 HOST_NODE_ADDR='' enroll_map='' untrained=false note=''
pretrain_phases=all

. "$here/../../tools/setup.sh" base
. "$here/../../tools/steps.sh"
. "$here/../../tools/stages.sh"
. "$here/../../tools/pretrain_stages.sh"
frontend=given begin_recipe
begin_pretraining
root=$exp_dir
read -ra set_list <<<"$sets"
declare -A encoder_list=()
read -ra words <<<"$encoders"
for word in ${words[@]+"${words[@]}"}; do
  [[ $word == *=* ]] || refuse "--encoders takes NAME=DIR, not '$word'"
  encoder_list[${word%%=*}]=${word#*=}
done

# Sets what belongs to the corpus that word $1 of --sets describes.
choose_set() {
  local rest=${1#*=}
  set_name=${1%%=*}
  train=${rest%%:*} trials=${rest##*:}
  rest=${rest#*:}
  eval=${rest%:*}
  [[ $1 == *=*:*:* ]] || refuse "--sets takes NAME=TRAIN:EVAL:TRIALS, not '$1'"
  train_dir=$data/$set_name/train eval_dir=$data/$set_name/eval
  pretrain_dir=$root/pretraining/$set_name
}

# tune PRETRAINED ENCODER: a cell of the grid for the corpus that is chosen.
tune() {
  local folder=$root/cells/$1/$set_name
  log "  pre-trained on $1, tuned on $set_name"
  exp_dir=$folder
  system=$folder/${phase_list[-1]}
  overrides=(--frontend.config null --frontend.weights "$2")
  read -ra words <<<"$train_options"
  overrides+=(${words[@]+"${words[@]}"})
  stage_train "${phase_list[@]}"
  stage_extract
  stage_score
  stage_report
}

for word in "${set_list[@]}"; do
  choose_set "$word"
  if run_stage 1 "data directories of $set_name"; then stage_data; fi
  if run_stage 2 "shards of $set_name"; then stage_shards; fi
  if [ -z "${encoder_list[$set_name]-}" ]; then
    if run_stage 3 "encoder of $set_name"; then
      for number in "${!pretrain_list[@]}"; do
        pretrain_labels "$number"
        pretrain_encoder "$number"
      done
    fi
    encoder_list[$set_name]=$(encoder_of "${pretrain_list[-1]}")
  fi
done
[ -z "$public" ] || encoder_list[public]=$public
for word in "${set_list[@]}"; do
  choose_set "$word"
  if run_stage 4 "tuning on $set_name"; then
    for name in "${!encoder_list[@]}"; do
      tune "$name" "${encoder_list[$name]}"
    done
  fi
done
if run_stage 5 "grid"; then
  run transfer_grid --cells "$root/cells" --out "$root" ${public:+--baseline public}
fi
