#!/usr/bin/env bash
# LibriSpeech: train on its 960 hours, test on trials of its test speakers.
#
#   bash egs/librispeech/run.sh --librispeech DIR --exp_dir DIR
#
# --librispeech takes the folder with the seven archives of OpenSLR 12, or where they were unpacked.
# 2,338 speakers train; trials of the 73 of dev-clean and dev-other choose the epoch; 36,427 trials
# of the 73 of test-clean and test-other are the test: the lists of the Universal Pooling paper.
#
# Stages:
#   -1  download into --download; only when asked for with --stage -1
#    0  set-up, and a check of everything that would stop a run hours later
#    1  data directories, trials    2  shards, also of the validation speakers
#    3  training of --phases        4  checkpoint average and extraction
#    5  cosine scores               6  AS-norm
#    7  calibration                 8  export
#    9  --next_phases, each with the stages 4 to 8 of its own
#   10  report
# A second run skips what is done.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

stage=0                              # first stage to run
stop_stage=10                        # last stage to run
librispeech=                         # LibriSpeech, with SPEAKERS.TXT
data_options=                        # options of local/prepare_data.py, in quotes
musan=                               # MUSAN, for settings that add noise
rirs=                                # RIRS_NOISES, for settings that add noise
download=                            # folder for the download of stage -1, and to find it later
exp_dir=                             # results and one folder per phase are written here
data=                                # data directories, shards, noise bank; empty: EXP_DIR/data
config=universal_pooling/wav2vec2_universal_pooling  # settings: a file, or its name below conf/
phases=first                         # phases that stage 3 trains: names in order, "first" or "all"
next_phases=rest                     # phases that stage 9 trains: names, or "rest"
frontend=                            # pre-trained frontend: a hub name or a local directory
backend=                             # backend by name, in place of the one in the settings
gpus=                                # GPUs to train on, such as 0,1; empty: all that are visible
nproc=0                              # training processes per node; 0: one per GPU
num_nodes=1                          # nodes
HOST_NODE_ADDR=                      # host:port where the nodes meet
nj=0                                 # jobs for data preparation; 0: one per core
num_avg=1                            # last checkpoints to average, without average_options
average_options="--best 1"           # options of average_model: the epoch that validated best
top_n=300                            # cohort speakers that count in AS-norm
num_pairs=30000                      # training pairs of the calibration
features=qmf9                        # what the calibration looks at; qmf7: no durations
report_options=                      # further options of the report, in quotes: "--by MAP"
utterances_per_shard=1000            # size of a shard
train_options=                       # further settings, in quotes: "--data.batch_size 64"

[ $# -gt 0 ] || set -- --help
. "$here/../../tools/parse_options.sh"
if [ -z "$exp_dir" ]; then
  echo "${0##*/}: give --exp_dir; see --help" >&2
  exit 2
fi
enroll_map=
untrained=false
note=

. "$here/../../tools/setup.sh" base
. "$here/../../tools/steps.sh"
. "$here/../../tools/stages.sh"
begin_recipe
train=$data/librispeech/train eval=$data/librispeech/test val=$data/librispeech/val
train_dir=$data/train_librispeech eval_dir=$data/eval_librispeech val_dir=$data/val_librispeech
trials=$data/librispeech/trials/librispeech_test.kaldi
val_trials=$data/librispeech/trials/librispeech_val.kaldi

if [ -n "$download" ]; then
  librispeech=${librispeech:-$download/librispeech}
fi
if run_stage -1 "download"; then
  run download --out "${download:?give --download DIR}" --corpora librispeech
fi
if run_stage 0 "checks"; then
  [ -z "$librispeech" ] || [ -e "$librispeech" ] ||
    refuse "--librispeech $librispeech: no such file or folder"
  stage_checks
fi
# The epoch is chosen on trials of the validation speakers. Options of the user come after.
overrides=(--validation.speakers 0 --validation.shards "$val_dir/shard.list"
  --validation.trials_list "$val_trials" ${overrides[@]+"${overrides[@]}"})

if run_stage 1 "data directories and trials"; then
  if [ -n "$librispeech" ]; then
    # shellcheck disable=SC2086  # several words are meant
    "$PYTHON" "$here/local/prepare_data.py" --out "$data/librispeech" \
      --librispeech "$librispeech" $data_options
  elif [ ! -f "$train/wav.scp" ] || [ ! -f "$eval/wav.scp" ] || [ ! -f "$val/wav.scp" ]; then
    refuse "give --librispeech, or a --data that has librispeech/{train,val,test}"
  fi
  run validate_data_dir "$val" --trials "$val_trials" --disjoint_from "$train" --audio none
  run prepare_data --src "$val" --out "$val_dir"
  stage_data
fi
if run_stage 2 "shards of the validation speakers"; then
  run make_shards --data "$val_dir" --out "$val_dir/shards" --list "$val_dir/shard.list" \
    --nj "$nj" --utterances_per_shard "$utterances_per_shard"
fi
run_common_stages
