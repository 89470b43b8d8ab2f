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
common=(--data.roots "$DATA" --backbone.path tiny --batch-size 16 --micro-batch 16 --seed 0)

echo "== stage 1: sensor encoder and action expert learn, the backbone is frozen"
launch training/stage1.py "${common[@]}" --stage.steps 300 --stage.lr.sensor 1e-3 --stage.lr.expert 1e-3 --out "$RUNS/stage1"

echo "== stage 2: LoRA opens the backbone at a tenth of the rate"
launch training/stage2.py "${common[@]}" --stage.steps 60 --stage.lr.sensor 3e-4 --stage.lr.expert 3e-4 --stage.lr.lora 3e-5 \
    --init-from "$RUNS/stage1" --out "$RUNS/stage2"

echo "== evaluation on the episodes that were held out"
"$BIN/vla" evaluate "$RUNS/stage2/policy" --data.roots "$DATA" --out "$RUNS/evaluation"

echo
echo "The policy:  $RUNS/stage2/policy"
echo "The report:  $RUNS/evaluation"
echo "The picture: $(find "$RUNS/evaluation" -name '*.png' | head -n 1)"
