#!/usr/bin/env bash
# The whole job, small: corpus, data directories, shards, self-pre-training of the frontend on the
# training set, training in three phases, embeddings, cosine, AS-norm, calibration, results table.
#
#   bash egs/mini/run.sh
#       on a synthetic corpus that is made on the spot
#   bash egs/mini/run.sh --train DIR --eval DIR --trials FILE[,FILE] [--musan DIR] [--rirs DIR] \
#       --exp_dir DIR
#       on Kaldi data directories
#
# Stages:
#    1  data directories            2  shards and noise bank
#    3  self-pre-training (clusters, labels and masked prediction, twice), training of --phases
#    4  average and extraction      5  cosine scores
#    6  AS-norm                     7  calibration
#    8  export                      9  --next_phases, each with the stages 4 to 8 of its own
#   10  report
# A second run skips what is done.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

stage=1                              # first stage to run
stop_stage=10                        # last stage to run
train=                               # Kaldi data directory to train on
eval=                                # Kaldi data directory of the trials
trials=                              # trial lists, with commas between them
musan=                               # noises in the layout of MUSAN
rirs=                                # room responses in the layout of RIRS_NOISES
exp_dir=$here/exp                    # everything is written here
data=                                # data directories, shards, noise bank; empty: EXP_DIR/data
config=mini                          # settings: a YAML file, or its name below conf/
phases=all                           # phases that stage 3 trains: names in order, "first" or "all"
next_phases=                         # phases that stage 9 trains: names, or "rest"
pretrain=true                        # pre-train the frontend on the training set first
pretrain_config=pretrain             # settings of that: a YAML file, or its name below conf/
pretrain_options=                    # further settings of that, in quotes
frontend=                            # pre-trained frontend in its place: a hub name or a directory
backend=                             # backend by name, in place of the one in the YAML files
gpus=                                # GPUs to train on, such as 0,1; empty: all that are visible
nproc=0                              # training processes; 0: two, or one on a single GPU
nj=0                                 # jobs for data preparation; 0: one per core
num_avg=2                            # checkpoints to average
average_options=                     # further options of average_model, in quotes: "--best 3"
top_n=20                             # cohort speakers that count in AS-norm
num_pairs=4000                       # training pairs of the calibration
features=qmf9                        # what the calibration looks at; qmf7: no durations
utterances_per_shard=200             # size of a shard
train_options=                       # further settings, in quotes: "--seed 1 --data.batch_size 32"
corpus=$here/data/synthetic          # where the synthetic corpus is kept
report_options=                      # further options of the report, in quotes: "--by MAP"
corpus_options=                      # options of local/make_corpus.py, in quotes

. "$here/../../tools/parse_options.sh"
num_nodes=1
HOST_NODE_ADDR=
enroll_map=
untrained=true
note=

if [ -n "$train$eval$trials" ]; then
  if [ -z "$train" ] || [ -z "$eval" ] || [ -z "$trials" ]; then
    echo "${0##*/}: give --train, --eval and --trials together, or none of them" >&2
    exit 2
  fi
fi

. "$here/../../tools/setup.sh" mini
. "$here/../../tools/steps.sh"
. "$here/../../tools/stages.sh"
. "$here/../../tools/pretrain_stages.sh"
given=$nproc$gpus
begin_recipe
if [ "$given" = 0 ] && [ "$nproc" -gt 2 ]; then
  nproc=2 # so small a network gains nothing from more
fi
[ -z "$frontend" ] || pretrain=false
if $pretrain; then
  pretrain_dir=$exp_dir/pretraining pretrain_phases=all num_clusters="100 100"
  label_layer=2 fraction=0.2
  begin_pretraining
  overrides=(--frontend.config null --frontend.weights "$(encoder_of "${pretrain_list[-1]}")"
    ${overrides[@]+"${overrides[@]}"})
fi

synthetic=false
if [ -z "$train" ]; then
  synthetic=true
  train=$corpus/train eval=$corpus/eval trials=$corpus/eval/trials,$corpus/eval/trials_hard
  musan=$corpus/musan rirs=$corpus/rirs
  note="The speech is synthetic: these figures show that the steps work, not how well they work."
fi

if run_stage 1 "data directories"; then
  if $synthetic; then
    # shellcheck disable=SC2086  # several words are meant
    "$PYTHON" "$here/local/make_corpus.py" --out "$corpus" $corpus_options
  fi
  stage_data
fi

if run_stage 2 "shards and noise bank"; then stage_shards; fi
if $pretrain && run_stage 3 "self-pre-training"; then
  for number in "${!pretrain_list[@]}"; do
    pretrain_labels "$number"
    pretrain_encoder "$number"
  done
fi
run_common_stages 3
