#!/usr/bin/env bash
# Human motion from the clips that ship: a base trained on texts, samples, figures beside real motions, one page.
# `make demo-motion` calls it; at most ten minutes on two cores.
set -euo pipefail

config=cpu
cores=$(env -u OMP_NUM_THREADS nproc)  # which otherwise counts the threads of one process
ranks=(--num_processes $((cores > 1 ? 2 : 1)))
if "$BIN/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    config=single
    ranks=()
fi
rm -rf -- "$RUNS"
trained=(examples/motion/cmu/train examples/motion/amp)

echo "== training: an expert learns what texts look like on the skeletons of eight bodies"
"$BIN/accelerate" launch --config_file "accelerate_configs/$config.yaml" --main_process_port 0 "${ranks[@]}" \
    training/pretrain.py --config examples/motion.json --data.roots "${trained[@]}" --data.weights 3 1 --out "$RUNS/base"

echo "== samples: a walk of ten seconds, as clips, as a picture and as a video"
"$BIN/vla" sample "$RUNS/base/policy" --text "a person walks forward" --seconds 10 --n 2 --out "$RUNS/walk"
"$BIN/vla" view "$RUNS/walk/sample-0000.npz" --degrees 90 --data.motion.joints all --out "$RUNS/walk.mp4"

echo "== figures: motions of each action beside clips that nothing was trained on"
"$BIN/vla" evaluate "$RUNS/base/policy" --data.roots examples/motion/cmu/test --training "${trained[@]}" --motions 32
"$BIN/vla" report "$RUNS/base"

echo
echo "The policy: $RUNS/base/policy"
echo "The walk:   $RUNS/walk, $RUNS/walk.mp4"
echo "The page:   $RUNS/base/report.html"
