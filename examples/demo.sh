#!/usr/bin/env bash
# The needle from nothing: demonstrations, both stages, closed loop, report. `make demo` calls it; less than ten minutes
# on two cores, by the benchmark's own recipe (examples/needle.json) on less data, from one camera, for fewer steps.
set -euo pipefail

launch() {
    "$BIN/accelerate" launch --config_file "accelerate_configs/$config.yaml" --main_process_port 0 "${ranks[@]}" "$@"
}

config=cpu
cores=$(env -u OMP_NUM_THREADS nproc)  # which otherwise counts the threads of one process
ranks=(--num_processes $((cores > 1 ? 2 : 1)))
if "$BIN/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    config=single
    ranks=()
fi
rm -rf -- "$RUNS"
common=(--config examples/needle.json --data.roots "$RUNS/demonstrations" --batch-size 32 --micro-batch 16)

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
