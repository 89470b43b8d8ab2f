#!/usr/bin/env bash
# The needle from nothing: demonstrations, both stages, closed loop, report. `make demo` calls it; less than ten minutes
# on two cores, by the benchmark's own recipe (examples/needle.json) on less data, from one camera, for fewer steps.
set -euo pipefail

source examples/launch.sh
rm -rf -- "$RUNS"
common=(--config examples/needle.json --data.roots "$RUNS/demonstrations" --batch-size 32 --micro-batch 16)
common+=(--cache.door auto --cache.path "$RUNS/cache")

echo "== demonstrations: a scripted expert that knows where the holes are and feels its way into one of them"
"$BIN/vla" needle demos --episodes 300 --seed 0 --cameras wrist --out "$RUNS/demonstrations"

echo "== stage 1: camera encoder, sensor encoder and action expert learn, the backbone is frozen"
launch training/stage1.py "${common[@]}" --stage.steps 800 --stage.lr.camera 1e-3 --stage.lr.sensor 1e-3 \
    --stage.lr.expert 1e-3 --out "$RUNS/stage1"

echo "== stage 2: LoRA opens the backbone at a third of the others' rate"
launch training/stage2.py "${common[@]}" --stage.steps 40 --stage.lr.camera 3e-4 --stage.lr.sensor 3e-4 \
    --stage.lr.expert 3e-4 --stage.lr.lora 1e-4 --init-from "$RUNS/stage1" --out "$RUNS/stage2"

echo "== evaluation: on demonstrations that were held out, and let loose on 100 needles"
"$BIN/vla" evaluate "$RUNS/stage2/policy" --data.roots "$RUNS/demonstrations" --samples 100 --phase phase \
    --phase-names approach search insert --env needle --episodes 100 --seed 1
"$BIN/vla" report "$RUNS/stage2"

echo
echo "The policy: $RUNS/stage2/policy"
echo "The videos: $RUNS/stage2/policy-evaluation/videos"
echo "The report: $RUNS/stage2/report.html"
