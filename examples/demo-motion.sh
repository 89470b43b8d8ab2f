#!/usr/bin/env bash
# Human motion from the clips that ship: a base trained on texts, samples, figures beside real motions, one page.
# `make demo-motion` calls it; at most ten minutes on two cores.
set -euo pipefail

source examples/launch.sh
rm -rf -- "$RUNS"
trained=(examples/motion/cmu/train examples/motion/amp)

echo "== training: an expert learns what texts look like on the skeletons of nine bodies"
launch training/pretrain.py --config examples/motion.json --data.roots "${trained[@]}" --out "$RUNS/base"

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
