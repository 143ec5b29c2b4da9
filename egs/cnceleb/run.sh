#!/usr/bin/env bash
# CN-Celeb: train on the training speakers of CN-Celeb1 (and CN-Celeb2), test on CNC-Eval.
#
#   bash egs/cnceleb/run.sh --cnceleb1 DIR [--cnceleb2 DIR] --musan DIR --rirs DIR --exp_dir DIR
#
# The corpora as they are published: CN-Celeb1 with data/ and eval/{enroll,test,lists}, CN-Celeb2
# with data/. Every enrolment model is one concatenated recording.
#
# Stages: 1 data directories, 2 shards and noise bank, 3 training, 4 average and extraction,
# 5 cosine scores, 6 AS-norm, 7 calibration, 8 export, 10 report. A second run skips what is done.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

stage=1                              # first stage to run
stop_stage=10                        # last stage to run
cnceleb1=                            # CN-Celeb1
cnceleb2=                            # CN-Celeb2, or empty for none
musan=                               # MUSAN
rirs=                                # RIRS_NOISES
exp_dir=                             # everything is written here
conf=$here/conf/wavlm_base_plus_lap  # folder with a YAML file per phase
phases="frozen joint large_margin"   # the phases, in order
nproc=0                              # training processes per node; 0: one per GPU
num_nodes=1                          # nodes
HOST_NODE_ADDR=                      # host:port where the nodes meet
nj=0                                 # jobs for data preparation; 0: one per core
num_avg=3                            # checkpoints to average
average_options=                     # further options of average_model, in quotes: "--best 3"
top_n=300                            # cohort speakers that count in AS-norm
num_pairs=30000                      # training pairs of the calibration
utterances_per_shard=1000            # size of a shard
train_options=                       # further settings, in quotes: "--data.batch_size 256"

. "$here/../../tools/parse_options.sh"
for option in cnceleb1 exp_dir; do
  if [ -z "${!option}" ]; then
    echo "${0##*/}: give --$option; see --help" >&2
    exit 2
  fi
done
corpus=$exp_dir/data/cnceleb
train=$corpus/train eval=$corpus/eval trials=$corpus/eval/trials
enroll_map=$corpus/eval/enroll.map
untrained=false
note=

. "$here/../../tools/setup.sh" base
. "$here/../../tools/steps.sh"
. "$here/../../tools/stages.sh"
check_recipe
read -ra overrides <<<"$train_options"
[ "$nproc" -gt 0 ] || nproc=$(default_processes)

if run_stage 1 "data directories"; then
  "$PYTHON" "$here/local/make_data_dirs.py" --out "$corpus" --cnceleb1 "$cnceleb1" \
    ${cnceleb2:+--cnceleb2 "$cnceleb2"}
  stage_data
fi
run_common_stages
