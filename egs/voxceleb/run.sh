#!/usr/bin/env bash
# VoxCeleb: train on VoxCeleb2-dev, test on the cleaned lists O, E and H of VoxCeleb1.
#
#   bash egs/voxceleb/run.sh --vox1 DIR[,DIR] --vox2 DIR --trials FILE[,FILE] \
#       --musan DIR --rirs DIR --exp_dir DIR
#
# --vox1 and --vox2 take the corpora as they are published, unpacked or as archives (wav, or m4a
# with ffmpeg), --trials the published lists (veri_test2.txt, list_test_all2.txt,
# list_test_hard2.txt). Where --data has the data directories already, none of them is needed.
#
# Stages:
#   -1  download into --download; only when asked for with --stage -1
#    0  set-up, and a check of everything that would stop a run hours later
#    1  data directories            2  shards and noise bank
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
vox1=                                # folders or archives of VoxCeleb1, with commas between them
vox2=                                # folders or archives of VoxCeleb2, with commas between them
trials=                              # trial lists, with commas between them
data_options=                        # options of local/prepare_data.py: "--vox2_test_speakers FILE"
musan=                               # MUSAN
rirs=                                # RIRS_NOISES
download=                            # folder for the downloads of stage -1, and to find them later
train_set=vox2_dev                   # trained on: vox2_dev, or vox1_dev (tests on 40 speakers)
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
top_n=600                            # cohort speakers that count in AS-norm
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
enroll_map=
untrained=false
note=

. "$here/../../tools/setup.sh" base
. "$here/../../tools/steps.sh"
. "$here/../../tools/stages.sh"
begin_recipe
case $train_set in
  vox2_dev) eval_set=vox1 ;;
  vox1_dev) eval_set=vox1_test ;;
  *) refuse "--train_set is vox2_dev or vox1_dev, not '$train_set'" ;;
esac
train=$data/$train_set eval=$data/$eval_set
train_dir=$data/train_$train_set eval_dir=$data/eval_$eval_set

# The trial lists that stage 1 has written, or that a data folder of WeSpeaker's holds: the known
# ones first, then others. Where no corpus is given, --trials are lists on the data that are there.
find_trials() {
  local path folder
  [ -z "$trials" ] || [ -n "$vox1$vox2" ] || return 0
  for folder in "$data/trials" "$data/vox1/trials"; do
    trials=
    for path in "$folder"/vox1_{O,E,H}_cleaned.kaldi "$folder"/*.kaldi; do
      [ -f "$path" ] && [[ ",$trials," != *",$path,"* ]] || continue
      trials+=${trials:+,}$path
    done
    [ -z "$trials" ] || return 0
  done
  refuse "no trial lists in $data/trials; give --trials and run stage 1"
}

if [ -n "$download" ]; then
  vox1=${vox1:-$download/voxceleb1} vox2=${vox2:-$download/voxceleb2}
  musan=${musan:-$download/musan} rirs=${rirs:-$download/rirs}
  trials=${trials:-$download/voxceleb1/veri_test2.txt}
fi

if run_stage -1 "download"; then
  [ -n "$download" ] || refuse "give --download DIR"
  run download --out "$download" --corpora voxceleb1,voxceleb2,musan,rirs
fi
if run_stage 0 "checks"; then
  stage_checks ${vox1:+--vox1 "$vox1"} ${vox2:+--vox2 "$vox2"} ${trials:+--trials "$trials"}
fi
if run_stage 1 "data directories"; then
  if [ -n "$vox1$vox2" ]; then
    # shellcheck disable=SC2086  # several words are meant
    "$PYTHON" "$here/local/prepare_data.py" --out "$data" ${vox1:+--vox1 "$vox1"} \
      ${vox2:+--vox2 "$vox2"} ${trials:+--trials "$trials"} $data_options
  elif [ ! -f "$train/wav.scp" ] || [ ! -f "$eval/wav.scp" ]; then
    refuse "give --vox1 and --vox2, or a --data that has $train_set and $eval_set"
  fi
  find_trials
  stage_data
fi
[ "$stop_stage" -lt 2 ] || find_trials
run_common_stages
