#!/usr/bin/env bash
# Fine-tune a model of human motion: entrypoint.sh with STAGE=sft, on what curation left for it unless USE_CURATED_DATA or
# TRAIN_DATA_PATH says otherwise, into checkpoints/sft of DATA_ROOT (default: /runpod-volume) unless CHECKPOINT_DIR does.
#
#   INIT_FROM_CHECKPOINT=/runpod-volume/checkpoints/pretrain/best MODEL_VARIANT=sft_medium runpod/sft_entrypoint.sh
#
#   INIT_FROM_CHECKPOINT  weights to begin with: a run, its best/, a checkpoint or a policy
#   MODEL_VARIANT         sft_small | sft_medium | sft_large, or small | medium | large. Default: the sizes of the weights
#                         and the rate and epochs of sft_medium
#   USE_LORA, LORA_RANK   true: train an adapter of these weights, of this rank (default: 16), which stay as they are;
#                         LORA_ALPHA, LORA_DROPOUT and LORA_LR say more of it
set -euo pipefail
export STAGE=sft
export USE_CURATED_DATA=${USE_CURATED_DATA:-true}
export CHECKPOINT_DIR=${CHECKPOINT_DIR:-${DATA_ROOT:-/runpod-volume}/checkpoints/sft}
exec "$(dirname -- "${BASH_SOURCE[0]}")/entrypoint.sh" "$@"
