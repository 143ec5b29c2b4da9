#!/usr/bin/env bash
# VoxCeleb: train on VoxCeleb2-dev, test on the cleaned lists O, E and H of VoxCeleb1.
#
#   bash egs/voxceleb/run.sh --vox1 DIR[,DIR] --vox2 DIR --trials FILE[,FILE] \
#       --musan DIR --rirs DIR --exp_dir DIR
#
# --vox1 takes the unpacked dev and test sets, --vox2 the dev set (wav, flac, or m4a with ffmpeg),
# --trials the published lists (veri_test2.txt, list_test_all2.txt, list_test_hard2.txt).
#
# Stages: 1 data directories, 2 shards and noise bank, 3 training, 4 average and extraction,
# 5 cosine scores, 6 AS-norm, 7 calibration, 8 export, 10 report. A second run skips what is done.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

stage=1                              # first stage to run
stop_stage=10                        # last stage to run
vox1=                                # folders of VoxCeleb1, with commas between them
vox2=                                # folders of VoxCeleb2-dev, with commas between them
trials=                              # trial lists, with commas between them
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
top_n=600                            # cohort speakers that count in AS-norm
num_pairs=30000                      # training pairs of the calibration
utterances_per_shard=1000            # size of a shard
train_options=                       # further settings, in quotes: "--data.batch_size 256"

. "$here/../../tools/parse_options.sh"
for option in vox1 vox2 trials exp_dir; do
  if [ -z "${!option}" ]; then
    echo "${0##*/}: give --$option; see --help" >&2
    exit 2
  fi
done
enroll_map=
untrained=false
note=
train=$exp_dir/data/vox2_dev eval=$exp_dir/data/vox1

. "$here/../../tools/setup.sh" base
. "$here/../../tools/steps.sh"
. "$here/../../tools/stages.sh"
check_recipe
read -ra overrides <<<"$train_options"
[ "$nproc" -gt 0 ] || nproc=$(default_processes)

make_data_dir() {
  local out=$1 sources
  IFS=, read -ra sources <<<"$2"
  "$PYTHON" "$here/local/make_data_dir.py" "$out" "${sources[@]}"
}

if run_stage 1 "data directories"; then
  make_data_dir "$train" "$vox2"
  make_data_dir "$eval" "$vox1"
  stage_data
fi
run_common_stages
