# What both demonstrations are started with, sourced by them: `launch SCRIPT FLAGS` on all cores, or on one GPU.
# shellcheck shell=bash

config=cpu
cores=$(env -u OMP_NUM_THREADS nproc)  # which otherwise counts the threads of one process
ranks=(--num_processes $((cores > 1 ? 2 : 1)))
if "$BIN/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    config=single
    ranks=()
fi

launch() {
    "$BIN/accelerate" launch --config_file "accelerate_configs/$config.yaml" --main_process_port 0 "${ranks[@]}" "$@"
}
