#!/usr/bin/env bash
# Train from environment variables: each becomes one flag of `accelerate launch training/stage1.py | stage2.py`.
# Started again it resumes each stage from the volume and skips a finished one. The last line of a failure says why.
#
#   runpod/entrypoint.sh [--dry-run]      --dry-run prints the commands, quoted for a shell, checks paths, numbers and
#                                         the backbone's kind, and starts nothing
#
# Where things are
#   DATA_ROOT               folder that relative paths below are in (default: the working directory); when it is set,
#                           downloaded weights are kept in its huggingface/ unless HF_HOME says otherwise
#   TRAIN_DATA_PATH         data sets: one folder, or several separated by newlines, colons or spaces. Colons (or a
#                           newline) keep the spaces of a path; a folder that exists is taken whole. Required
#   CHECKPOINT_DIR          the run folder on the volume; STAGE=both uses its stage1/ and stage2/. Required
#   MODEL_VARIANT           tiny | 3b | 7b | 32b | 72b (Qwen2.5-VL-Instruct), a hub id, or a folder. Default 3b
#   STAGE                   1 | 2 | both. Default both
#   INIT_FROM_CHECKPOINT    weights to start from, at step 0; STAGE=2 wants a stage-1 run here
#   RESUME_FROM_CHECKPOINT  auto | a checkpoint | a run. Default auto: the newest valid checkpoint of CHECKPOINT_DIR
# How it is launched
#   ACCELERATE_CONFIG       cpu | single | ddp | zero1 | zero2 | zero3 | zero2_offload | zero3_offload, or a .yaml file.
#                           Default by the number of GPUs
#   NUM_PROCESSES           default: RUNPOD_GPU_COUNT, else the GPUs that nvidia-smi lists, else 1
#   EXTRA_ARGS              more flags, quoted as in a shell
# How it is trained: the table below.
set -euo pipefail
set +x
set -f # nothing here is a pattern of file names

ulimit -c 0 # a core file would hold every secret of the environment

readonly REFUSED=78 PREEMPTED=75
# Names of variables whose values are never printed; vla/redaction.py has the same rule.
readonly NAMED='((TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY)S?(_|$)|(^|_)(KEY|PAT|AUTH)S?(_|$)|_PWD$)'

# variable, flag, stages it belongs to, number of values (1, or + for several separated by spaces)
readonly TABLE="
STEPS             --stage.steps          12  1
EPOCHS            --stage.epochs         12  1
BATCH_SIZE        --batch-size           12  1
MICRO_BATCH       --micro-batch          12  1
LR_SENSOR         --stage.lr.sensor      12  1
LR_EXPERT         --stage.lr.expert      12  1
LR_LORA           --stage.lr.lora        2   1
FINETUNE_VL       --finetune-vl          2   1
LORA_RANK         --lora.rank            2   1
LORA_ALPHA        --lora.alpha           2   1
LORA_DROPOUT      --lora.dropout         2   1
DROPOUT           --dropout              12  1
SEED              --seed                 12  1
SAVE_EVERY        --save-every           12  1
SAVE_SECONDS      --save-seconds         12  1
KEEP              --keep                 12  1
GRACE_SECONDS     --grace-seconds        12  1
HANG_SECONDS      --hang-seconds         12  1
SAVE_FAILURES     --save-failures        12  1
QUARANTINE        --data.quarantine      12  1
TRACKER           --tracker              12  1
TRAIN_DATA_WEIGHTS   --data.weights      12  +
TRAIN_DATA_EPISODES  --data.episodes     12  +
"

# Read the values that must not be printed into `secrets`; a short value ("1", "true") or a path is none.
read_secrets() {
    secrets=()
    local name secret top
    while read -r name; do
        [[ ${name^^} =~ $NAMED ]] || continue
        secret=${!name-}
        top=${secret#/}
        case $secret in
            \~/* | ./* | ../*) continue ;;
            /*) [[ ! -e /${top%%/*} ]] || continue ;;
        esac
        ((${#secret} < 6)) || secrets+=("$secret")
    done < <(compgen -e)
}

# $1 with every secret masked, in `masked`.
mask() {
    masked=$1
    local secret
    for secret in "${secrets[@]}"; do
        masked=${masked//"$secret"/HIDDEN}
    done
}

refuse() {
    mask "$1"
    printf 'error: %s\n' "$masked" >&2
    exit "$REFUSED"
}

say() {
    mask "$1"
    printf '%s\n' "$masked" >&2
}

# Make $1 absolute, into `path`: a command substitution would lose a newline at its end.
absolute() {
    case $1 in
        /*) path=$1 ;;
        *) path=$data_root/$1 ;;
    esac
}

read_paths() {
    root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
    data_root=${DATA_ROOT:-$PWD}
    [[ -n ${CHECKPOINT_DIR-} ]] || refuse "CHECKPOINT_DIR is not set; give the run folder on the volume, e.g. /workspace/runs/first"
    [[ -n ${TRAIN_DATA_PATH-} ]] || refuse "TRAIN_DATA_PATH is not set; give one or more data set folders, e.g. /workspace/data/pick"
    absolute "$CHECKPOINT_DIR"
    run=$path
    roots=()
    local entries=() entry
    absolute "$TRAIN_DATA_PATH"
    if [[ -d $path ]]; then
        entries=("$TRAIN_DATA_PATH")
    elif [[ $TRAIN_DATA_PATH == *$'\n'* ]]; then
        mapfile -t entries <<<"$TRAIN_DATA_PATH"
    elif [[ $TRAIN_DATA_PATH == *:* ]]; then
        mapfile -t -d : entries < <(printf '%s' "$TRAIN_DATA_PATH")
    else
        read -ra entries <<<"$TRAIN_DATA_PATH"
    fi
    for entry in "${entries[@]}"; do
        [[ -n ${entry//[[:space:]]/} ]] || continue
        absolute "$entry"
        roots+=("$path")
    done
    ((${#roots[@]})) || refuse "TRAIN_DATA_PATH names no folder; give one or more data set folders, e.g. /workspace/data/pick"
}

read_model() {
    local variant=${MODEL_VARIANT:-3b}
    case ${variant,,} in
        tiny) backbone=tiny ;;
        3b | 7b | 32b | 72b) backbone=Qwen/Qwen2.5-VL-${variant^^}-Instruct ;;
        */*)
            backbone=$variant
            absolute "$variant"
            [[ ! -d $path ]] || backbone=$path
            ;;
        *) refuse "MODEL_VARIANT is '$variant'; give tiny, 3b, 7b, 32b, 72b, a hub id (owner/name) or a folder (./name)" ;;
    esac
}

# Where weights come from: a run, a checkpoint or a policy, each a folder.
read_start() {
    init=${INIT_FROM_CHECKPOINT-}
    resume=${RESUME_FROM_CHECKPOINT-}
    if [[ -n $init && -n $resume ]]; then
        refuse "INIT_FROM_CHECKPOINT and RESUME_FROM_CHECKPOINT are both set; unset RESUME_FROM_CHECKPOINT: a run that was already started from INIT_FROM_CHECKPOINT resumes by itself"
    fi
    resume=${resume:-auto}
    if [[ $resume != auto ]]; then
        [[ $stage != both ]] || refuse "RESUME_FROM_CHECKPOINT is '$resume' but STAGE is both; set STAGE to 1 or 2, or leave RESUME_FROM_CHECKPOINT at auto, which resumes each stage from its own folder"
        absolute "$resume"
        resume=$path
    fi
    if [[ -n $init ]]; then
        absolute "$init"
        init=$path
    fi
}

read_launcher() {
    processes=${NUM_PROCESSES:-}
    local gpus=${RUNPOD_GPU_COUNT:-}
    if [[ ! $gpus =~ ^[0-9]+$ ]]; then
        gpus=0
        if command -v nvidia-smi >/dev/null; then
            gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
        fi
    fi
    if [[ -z $processes ]]; then
        processes=$((gpus > 0 ? gpus : 1))
    fi
    [[ $processes =~ ^[1-9][0-9]*$ ]] || refuse "NUM_PROCESSES is '$processes'; give a whole number from 1"
    local name=${ACCELERATE_CONFIG:-}
    if [[ -z $name ]]; then
        name=cpu
        if ((gpus > 0)); then
            name=$([[ $processes == 1 ]] && printf single || printf ddp)
        fi
    fi
    case $name in
        *.yaml | *.yml | */*)
            absolute "$name"
            config=$path
            ;;
        *) config=accelerate_configs/$name.yaml ;;
    esac
    [[ -f $config || -f $root/$config ]] || refuse "ACCELERATE_CONFIG is '$name'; give cpu, single, ddp, zero1, zero2, zero3, zero2_offload, zero3_offload or a .yaml file that exists"
    accelerate=accelerate
    if ! command -v accelerate >/dev/null && [[ -x $root/.venv/bin/accelerate ]]; then
        accelerate=$root/.venv/bin/accelerate
    fi
}

# EXTRA_ARGS as words, by the quoting rules of a shell and without running anything.
read_extra() {
    extra=()
    [[ -n ${EXTRA_ARGS-} ]] || return 0
    local words
    words=$(mktemp)
    if ! python3 -c 'import os, shlex, sys
sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in shlex.split(os.environ["EXTRA_ARGS"])))' >"$words" 2>/dev/null; then
        rm -f "$words"
        refuse "EXTRA_ARGS has a quotation mark that is not closed; quote it as in a shell"
    fi
    mapfile -t -d '' extra <"$words"
    rm -f "$words"
}

# The flags of the table that belong to stage $1, appended to `command`.
append_table() {
    local variable flag stages count setting values
    while read -r variable flag stages count; do
        [[ -n $variable && $stages == *"$1"* ]] || continue
        setting=${!variable-}
        [[ -n $setting ]] || continue
        if [[ $count == + ]]; then
            read -ra values <<<"$setting"
            command+=("$flag" "${values[@]}")
        else
            command+=("$flag" "$setting")
        fi
    done <<<"$TABLE"
}

# Whether run folder $1 holds a checkpoint.
saved() {
    [[ -n $(find "$1/checkpoints" -maxdepth 1 -name 'step-*' -print -quit 2>/dev/null) ]]
}

# Build `command` for stage $1 with run folder $2 and weights from $3 (or nothing). A run with a checkpoint goes on from
# it; its first weights are needed only before.
build() {
    command=("$accelerate" launch --config_file "$config" --num_processes "$processes" --main_process_port 0
        "training/stage$1.py" --data.roots "${roots[@]}" --backbone.path "$backbone" --out "$2")
    if [[ -n $3 ]] && ! saved "$2"; then
        command+=(--init-from "$3")
    else
        command+=(--resume-from "$resume")
    fi
    append_table "$1"
    command+=("${extra[@]}")
}

# What training says of the flags in `command` before it starts, where its Python is beside accelerate.
check() {
    local python
    python=$(dirname -- "$(command -v "$accelerate" || printf '%s' "$accelerate")")/python
    [[ -x $python ]] || {
        say "nothing was checked: there is no Python with this package beside accelerate"
        return 0
    }
    # Behind the eight words of the launcher; the ranks count for the batch.
    WORLD_SIZE=$processes "$python" "${command[@]:8}" --dry-run </dev/null >&2
}

# The words of `command` quoted for a shell, each without secrets.
show() {
    local word line=()
    for word in "${command[@]}"; do
        mask "$word"
        line+=("$(printf '%q' "$masked")")
    done
    printf '%s\n' "${line[*]}"
}

# Whether run folder $1 holds a policy. A policy folder is written beside and renamed, so it is there whole or not at all.
exported() {
    local file
    for file in config.json normalizer.safetensors action_expert.safetensors; do
        [[ -s $1/policy/$file ]] || return 1
    done
}

# Whether --stop-after ended run $1, which exports a policy too, but of a step before the last.
stopped() {
    grep -Eq '"stop_after": *[0-9]' "$1/config.json" 2>/dev/null
}

# Pass signal $1 on to the running stage, or keep it from starting.
stop() {
    received=$1
    signals=$((signals + 1))
    [[ -z $child ]] || kill -s "$1" -- "-$child" 2>/dev/null || true
}

# Run `command` and return the exit code that training wrote, or the launcher's, which is 1 for every failure.
launch() {
    local status=0 written before next
    : >"$code_file"
    before=$signals
    set -m # a process group of its own, so that a signal reaches all of it once
    TOUCHSTONE_EXIT_CODE_FILE=$code_file "${command[@]}" </dev/null &
    child=$!
    set +m
    [[ $signals == "$before" ]] || stop "$received"
    while :; do
        before=$signals next=0
        wait "$child" || next=$?
        # A signal interrupts wait while the child may still be saving; 127 says that its status was already taken.
        [[ $next == 127 && $signals -gt 0 ]] || status=$next
        [[ $signals != "$before" && $next -gt 128 ]] || break
    done
    child=
    written=$(<"$code_file")
    if [[ $written =~ ^[0-9]+$ ]]; then
        status=$written
    fi
    return "$status"
}

# Run stage $1 in folder $2 from weights $3; returns its exit code, or ends here where --stop-after did.
train() {
    if exported "$2" && ! stopped "$2"; then
        say "stage $1 is finished: $2/policy"
        return 0
    fi
    if [[ $dry_run == yes ]]; then
        build "$1" "$2" "$3"
        show
        # Stage 1 of both has not left its weights yet.
        [[ $stage == both && $1 == 2 && ! -e $3 ]] && build "$1" "$2" ""
        check
        return
    fi
    build "$1" "$2" "$3"
    [[ -z $received ]] || return "$PREEMPTED"
    command -v "$accelerate" >/dev/null || refuse "accelerate is not installed; run 'make .venv' in '$root' or 'pip install -e .'"
    mkdir -p -- "$2" 2>/dev/null && [[ -w $2 ]] || refuse "CHECKPOINT_DIR: '$2' cannot be written; give a folder on a volume with room"
    if [[ -n $3 && -e $2/config.json ]] && ! saved "$2"; then
        # It ended before its first checkpoint: nothing to go on from, and training refuses a folder that holds a run.
        mv -- "$2" "$2.unsaved-$(date +%s)"
        mkdir -- "$2"
    fi
    say "stage $1: $(show)"
    local status=0
    launch || status=$?
    [[ $status == 0 ]] || return "$status"
    exported "$2" || {
        say "stage $1 ended before its last step; start again to go on"
        return "$PREEMPTED"
    }
    if stopped "$2"; then
        say "stage $1 was ended by --stop-after; start again without it to go on"
        exit 0
    fi
}

main() {
    read_secrets
    dry_run=no
    case ${1-} in
        '') ;;
        --dry-run) dry_run=yes ;;
        *)
            say "error: unknown argument '$1'; the only one is --dry-run, everything else is an environment variable"
            exit 2
            ;;
    esac
    stage=${STAGE:-both}
    case $stage in
        1 | 2 | both) ;;
        *) refuse "STAGE is '$stage'; give 1, 2 or both" ;;
    esac
    read_paths
    read_model
    read_start
    read_launcher
    read_extra
    # What the platform or an earlier launcher exported describes other processes than those started here.
    unset WORLD_SIZE RANK LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK ROLE_RANK MASTER_ADDR MASTER_PORT
    unset INIT_FROM_CHECKPOINT RESUME_FROM_CHECKPOINT
    cd -- "$root"
    # Downloaded weights stay on the volume.
    [[ -z ${DATA_ROOT-} ]] || export HF_HOME=${HF_HOME:-$DATA_ROOT/huggingface}

    child='' received='' signals=0
    if [[ $dry_run == no ]]; then
        code_file=$(mktemp)
        trap 'rm -f -- "$code_file" "$code_file.signals"' EXIT
        trap 'stop TERM' TERM
        trap 'stop INT' INT
    fi
    local status=0
    case $stage in
        both)
            train 1 "$run/stage1" "$init" || status=$?
            [[ $status == 0 ]] || exit "$status"
            train 2 "$run/stage2" "$run/stage1" || status=$?
            ;;
        *) train "$stage" "$run" "$init" || status=$? ;;
    esac
    exit "$status"
}

main "$@"
