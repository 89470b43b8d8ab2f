#!/usr/bin/env bash
# Both stages on the demo data with the tiny backbone, then the evaluation on its held-out episodes. `make demo` calls it.
set -euo pipefail

launch() {
    "$BIN/accelerate" launch --config_file "accelerate_configs/$config.yaml" --main_process_port 0 "$@"
}

config=cpu
if "$BIN/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    config=single
fi
rm -rf -- "$RUNS"
# Two of the twelve episodes are held out. Small frames and predicting the actions themselves suit so little data and time.
common=(--data.roots "$DATA" --data.validation-share 0.2 --seed 5 --backbone.path tiny --backbone.max-pixels 12544
    --diffusion.prediction data --batch-size 32 --micro-batch 32)

echo "== stage 1: sensor encoder and action expert learn, the backbone is frozen"
launch training/stage1.py "${common[@]}" --stage.steps 350 --stage.lr.sensor 2e-3 --stage.lr.expert 2e-3 \
    --out "$RUNS/stage1"

echo "== stage 2: LoRA opens the backbone at a tenth of the rate"
launch training/stage2.py "${common[@]}" --stage.steps 50 --stage.lr.sensor 5e-4 --stage.lr.expert 5e-4 \
    --stage.lr.lora 5e-5 --init-from "$RUNS/stage1" --out "$RUNS/stage2"

echo "== evaluation on the episodes that were held out"
"$BIN/vla" evaluate "$RUNS/stage2/policy" --data.roots "$DATA" --out "$RUNS/evaluation"

echo
echo "The policy:  $RUNS/stage2/policy"
echo "The report:  $RUNS/evaluation"
echo "The picture: $RUNS/evaluation/actions.png"
