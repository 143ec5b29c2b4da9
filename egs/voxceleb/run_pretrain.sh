#!/usr/bin/env bash
# Self-pre-training on VoxCeleb: an encoder from random weights on the very corpus it is
# fine-tuned on, then run.sh with it, and beside it the controls.
#
#   bash egs/voxceleb/run_pretrain.sh --vox1 DIR[,DIR] --vox2 DIR \
#       --trials FILE[,FILE] --musan DIR --rirs DIR --exp_dir DIR
#
# Stages:
#    0  checks                      1  data directories
#    2  shards and noise bank
#    3  clusters of MFCC, labels    4  pre-training, first iteration
#    5  clusters of a layer, labels 6  pre-training, second iteration
#    7  fine-tuning in all phases: run.sh, stages 3 to 10
#    8  --controls: the same fine-tuning from random weights and from a public encoder
#    9  table and heat map of 7 and 8
# A second run skips what is done.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

stage=0                              # first stage to run
stop_stage=9                         # last stage to run
vox1=                                # as in run.sh, like the next five
vox2=
trials=
musan=
rirs=
download=
train_set=vox2_dev                   # what is pre-trained and fine-tuned on: vox2_dev or vox1_dev
exp_dir=                             # everything is written here
data=                                # data directories, shards, noise bank; empty: EXP_DIR/data
pretrain_config=pretraining/hubert   # settings of pre-training: a file, or its name below conf/
pretrain_phases=all                  # its phases, in order: names, or "all"
pretrain_options=                    # further settings of pre-training, in quotes
num_clusters="100 500"               # clusters of each of its phases
label_layer=6                        # layer that is clustered for the second one, from 1
fraction=0.1                         # share of the utterances that clusters are learnt from
config=self_pretraining/mhfa         # settings of fine-tuning, without weights of a frontend
random_config=self_pretraining/hubert_random_mhfa  # the same, from random weights
public_config=self_pretraining/hubert_ls960_mhfa   # the same, from a public encoder
controls="random public"             # controls of stage 8; empty for none
baseline=public                      # what the table compares with; empty for nothing
phases=first                         # phases of fine-tuning, as in run.sh
next_phases=rest                     # further ones, each with results of its own
run_options=                         # further options of run.sh, in quotes: "--top_n 100"
gpus=                                # GPUs to train on, such as 0,1; empty: all that are visible
nproc=0                              # training processes per node; 0: one per GPU
num_nodes=1                          # nodes
HOST_NODE_ADDR=                      # host:port where the nodes meet
nj=0                                 # jobs for data preparation and labels; 0: one per core

[ $# -gt 0 ] || set -- --help
. "$here/../../tools/parse_options.sh"
if [ -z "$exp_dir" ]; then
  echo "${0##*/}: give --exp_dir; see --help" >&2
  exit 2
fi

. "$here/../../tools/setup.sh" base
. "$here/../../tools/steps.sh"
. "$here/../../tools/stages.sh"
. "$here/../../tools/pretrain_stages.sh"
if [ -n "$download" ]; then
  musan=${musan:-$download/musan} rirs=${rirs:-$download/rirs}
fi
corpus_name=$train_set
data=${data:-$exp_dir/data}
train_dir=$data/train_$train_set
corpus_words=(--data "$data" --train_set "$train_set" --vox1 "$vox1" --vox2 "$vox2"
  --trials "$trials" --musan "$musan" --rirs "$rirs" --download "$download")
run_pretraining
