#!/usr/bin/env bash
# CN-Celeb: train on the training speakers of CN-Celeb1 (and CN-Celeb2), test on CNC-Eval.
#
#   bash egs/cnceleb/run.sh --cnceleb1 DIR [--cnceleb2 DIR] --musan DIR --rirs DIR --exp_dir DIR
#
# The corpora as they are published: CN-Celeb1 with data/ and eval/{enroll,test,lists}, CN-Celeb2
# with data/. Training utterances shorter than 5 s are joined with others of the same speaker and
# genre. Two trial lists: enrolment with the mean over all recordings of a model (Avg), and with one
# concatenated recording (Concat).
#
# Stages:
#   -1  download into --download; only when asked for with --stage -1
#    0  set-up, and a check of everything that would stop a run hours later
#    1  data directories            2  shards and noise bank
#    3  training of --phases        4  checkpoint average and extraction
#    5  cosine scores               6  AS-norm
#    7  calibration                 8  export
#    9  --next_phases, each with the stages 4 to 8 of its own
#   10  report, with error rates by genre
# A second run skips what is done.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

stage=0                              # first stage to run
stop_stage=10                        # last stage to run
cnceleb1=                            # CN-Celeb1
cnceleb2=                            # CN-Celeb2, or empty for none
data_options=                        # options of local/prepare_data.py: "--exclude FILE"
musan=                               # MUSAN
rirs=                                # RIRS_NOISES
download=                            # folder for the downloads of stage -1, and to find them later
exp_dir=                             # results and one folder per phase are written here
data=                                # data directories, shards, noise bank; empty: EXP_DIR/data
config=lap/wavlm_base_plus_lap       # settings: a YAML file, or its name below conf/
phases=first                         # phases that stage 3 trains: names in order, "first" or "all"
next_phases=rest                     # phases that stage 9 trains: names, or "rest"
frontend=                            # pre-trained frontend: a hub name or a local directory
backend=                             # backend by name, in place of the one in the settings
gpus=                                # GPUs to train on, such as 0,1; empty: all that are visible
nproc=0                              # training processes per node; 0: one per GPU
num_nodes=1                          # nodes
HOST_NODE_ADDR=                      # host:port where the nodes meet
nj=0                                 # jobs for data preparation; 0: one per core
num_avg=3                            # checkpoints to average
average_options=                     # further options of average_model, in quotes: "--best 3"
top_n=300                            # cohort speakers that count in AS-norm
num_pairs=30000                      # training pairs of the calibration
features=qmf9                        # what the calibration looks at; qmf7: no durations
report_options=                      # further options of the report, in quotes: "--by MAP"
utterances_per_shard=1000            # size of a shard
train_options=                       # further settings, in quotes: "--data.batch_size 256"

[ $# -gt 0 ] || set -- --help
. "$here/../../tools/parse_options.sh"
if [ -z "$exp_dir" ]; then
  echo "${0##*/}: give --exp_dir; see --help" >&2
  exit 2
fi
untrained=false
note=

. "$here/../../tools/setup.sh" base
. "$here/../../tools/steps.sh"
. "$here/../../tools/stages.sh"
begin_recipe
if [ -n "$download" ]; then
  cnceleb1=${cnceleb1:-$download/cnceleb1} cnceleb2=${cnceleb2:-$download/cnceleb2}
  musan=${musan:-$download/musan} rirs=${rirs:-$download/rirs}
fi
corpus=cnceleb1
[ -z "$cnceleb2" ] || corpus=cnceleb1_2
train=$data/$corpus/train eval=$data/$corpus/eval
train_dir=$data/train_$corpus eval_dir=$data/eval_cnceleb
trials=$eval/trials/CNC-Eval-Avg.lst,$eval/trials/CNC-Eval-Concat.lst
enroll_map=$eval/enroll.map
trial_speakers=$eval/by/speaker
report_words=(--by "$eval/by/test_genre")

if run_stage -1 "download"; then
  [ -n "$download" ] || refuse "give --download DIR"
  run download --out "$download" --corpora cnceleb1,cnceleb2,musan,rirs
  for name in cnceleb1 cnceleb2; do
    run unpack --source "$download/$name" --out "$download/$name"
  done
fi
if run_stage 0 "checks"; then
  stage_checks ${cnceleb1:+--cnceleb1 "$cnceleb1"} ${cnceleb2:+--cnceleb2 "$cnceleb2"}
fi
if run_stage 1 "data directories"; then
  if [ -n "$cnceleb1" ]; then
    # shellcheck disable=SC2086  # several words are meant
    "$PYTHON" "$here/local/prepare_data.py" --out "$data/$corpus" --cnceleb1 "$cnceleb1" \
      ${cnceleb2:+--cnceleb2 "$cnceleb2"} --nj "$nj" $data_options
  elif [ ! -f "$train/wav.scp" ] || [ ! -f "$eval/wav.scp" ]; then
    refuse "give --cnceleb1, or a --data that has $corpus/train and $corpus/eval"
  fi
  stage_data
fi
run_common_stages
