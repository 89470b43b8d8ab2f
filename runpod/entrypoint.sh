#!/usr/bin/env bash
# Train from environment variables: each becomes one flag of `accelerate launch training/ENTRY.py`, ENTRY being stage1,
# stage2, pretrain, sft, adapter or unlearn, or of the commands that make data ready for it. Started again it resumes each
# stage from the volume and skips a finished one. The last line of a failure says why.
#
#   runpod/entrypoint.sh [--dry-run]      --dry-run prints the commands, quoted for a shell, checks paths, numbers and
#                                         the backbone's kind, and starts nothing
#
# Where things are
#   DATA_ROOT               folder that relative paths below are in (default: the working directory); when it is set,
#                           downloaded weights are kept in its huggingface/ unless HF_HOME says otherwise
#   TRAIN_DATA_PATH         data sets: one folder, or several separated by newlines, colons or spaces. Colons (or a
#                           newline) keep the spaces of a path; a folder that exists is taken whole. Required, but
#                           where the stages before a training or USE_CURATED_DATA say it (runpod/preparation.sh)
#   CHECKPOINT_DIR          the run folder on the volume; STAGE=both uses its stage1/ and stage2/. Required to train
#   MODEL_VARIANT           tiny | 3b | 7b | 32b | 72b (Qwen2.5-VL-Instruct), a hub id, or a folder. Default 3b. Of
#                           pretrain and sft it is the --preset: small | medium | large
#   STAGE                   1 | 2 | both, pretrain | sft of human motion, adapter or unlearn of either; before it, or
#                           alone, prep, curate and embed: "prep curate embed pretrain". Default both
#   INIT_FROM_CHECKPOINT    weights to start from, at step 0; STAGE=2 wants a stage-1 run here
#   RESUME_FROM_CHECKPOINT  auto | a checkpoint | a run. Default auto: the newest valid checkpoint of CHECKPOINT_DIR
# How it is launched
#   ACCELERATE_CONFIG       cpu | single | ddp | zero1 | zero2 | zero3 | zero2_offload | zero3_offload, or a .yaml file.
#                           Default by the number of GPUs
#   NUM_PROCESSES           default: RUNPOD_GPU_COUNT, else the GPUs that nvidia-smi lists, else 1
#   EXTRA_ARGS              more flags, quoted as in a shell
# How it is trained: the table of training/variables.py, which reads all of the above but DATA_ROOT's folder of weights,
# CHECKPOINT_DIR, STAGE and how it is launched.
set -euo pipefail
set +x
set -f # nothing here is a pattern of file names

ulimit -c 0 # a core file would hold every secret of the environment

readonly STORAGE=34 REFUSED=78 PREEMPTED=75
# Names of variables whose values are never printed; vla/redaction.py has the same rule.
readonly NAMED='((TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY)S?(_|$)|(^|_)(KEY|PAT|AUTH)S?(_|$)|_PWD$)'

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

# Say $1 once.
remark() {
    [[ $remarked == *"<$1>"* ]] || say "$1"
    remarked+="<$1>"
}

# Make $1 absolute, into `path`: a command substitution would lose a newline at its end.
absolute() {
    case $1 in
        /*) path=$1 ;;
        *) path=$data_root/$1 ;;
    esac
}

read_paths() {
    data_root=${DATA_ROOT:-$PWD}
    run=
    [[ -n $stage ]] || return 0
    [[ -n ${CHECKPOINT_DIR-} ]] || refuse "CHECKPOINT_DIR is not set; give the run folder on the volume, e.g. /workspace/runs/first"
    absolute "$CHECKPOINT_DIR"
    run=$path
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

# Ask $1, a script of training/ that any Python runs, with the arguments behind it and the variables in `settings`; the
# answer is in `words`. What it remarks is said once; what it refuses is refused, or told to `complain`.
ask() {
    local answer said status=0
    answer=$(mktemp)
    said=$(env "${settings[@]}" python3 -I "$root/training/$1" "${@:2}" 2>&1 >"$answer") || status=$?
    mapfile -t -d '' words <"$answer"
    rm -f -- "$answer"
    case $status in
        0) [[ -z $said ]] || remark "$said" ;;
        "$REFUSED") "${complain:-refuse}" "$said" ;;
        "$STORAGE")
            say "error: $said"
            exit "$STORAGE"
            ;;
        *) refuse "python3 does not run training/$1 (${said##*$'\n'}); install Python 3.9 or newer" ;;
    esac
}

# The names of all variables that set flags, as `env -u` forgets them: what training is told, it is told by flags.
read_names() {
    local words names
    ask variables.py
    mapfile -t names <<<"${words[0]%$'\n'}"
    without=("${names[@]/#/--unset=}")
}

# Build `command` for entry point $1 with run folder $2 and weights of run $3, or of what the environment names.
build() {
    local words settings=("STAGE=$stage" "DATA_PATH=$data")
    [[ -z $3 ]] || settings+=("INIT_FROM_CHECKPOINT=$3" RESUME_FROM_CHECKPOINT=)
    train_on "$1"
    ask variables.py "$1" "$2" "${given[@]}"
    learn "$1"
    command=("$accelerate" launch --config_file "$config" --num_processes "$processes" --main_process_port 0
        "training/$1.py" "${words[@]}" "${known[@]}" "${extra[@]}")
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
    WORLD_SIZE=$processes env "${without[@]}" "$python" "${command[@]:8}" --dry-run </dev/null >&2
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

# Whether run folder $1 holds an adapter, or a policy. Their folder is written beside and renamed, so it is there whole or not at all.
exported() {
    local file
    [[ ! -s $1/adapter/adapter_model.safetensors ]] || return 0
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
    TOUCHSTONE_EXIT_CODE_FILE=$code_file env "${without[@]}" "${command[@]}" </dev/null &
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

# Run entry point $1 in folder $2 from weights $3; returns its exit code, or ends here where --stop-after did.
train() {
    if exported "$2" && ! stopped "$2" && [[ " ${extra[*]-}" != *" --extend-to"* ]]; then
        local left=policy
        [[ ! -d $2/adapter ]] || left=adapter
        say "$1 is finished: $2/$left"
        return 0
    fi
    if [[ $dry_run == yes ]]; then
        build "$1" "$2" "$3"
        show
        # Stage 1 of both has not left its weights yet.
        [[ $stage == both && $1 == stage2 && ! -e $3 ]] && build "$1" "$2" ""
        vouch_for_training
        if [[ -n $missing ]]; then
            say "nothing was checked: $missing is not written yet"
            return 0
        fi
        check
        return
    fi
    build "$1" "$2" "$3"
    vouch_for_training
    [[ -z $missing ]] || refuse "$missing is not there: curation has kept nothing for $1, and $curated/curation_stats.json says why; lower its thresholds (CURATION_*)"
    [[ -z $received ]] || return "$PREEMPTED"
    command -v "$accelerate" >/dev/null || refuse "accelerate is not installed; run 'make .venv' in '$root' or 'pip install -e .'"
    mkdir -p -- "$2" 2>/dev/null && [[ -w $2 ]] || refuse "CHECKPOINT_DIR: '$2' cannot be written; give a folder on a volume with room"
    if [[ " ${command[*]} " == *" --init-from "* && -e $2/config.json ]]; then
        # It ended before its first checkpoint: nothing to go on from, and training refuses a folder that holds a run.
        mv -- "$2" "$2.unsaved-$(date +%s)"
        mkdir -- "$2"
    fi
    say "$1: $(show)"
    local status=0
    launch || status=$?
    [[ $status == 0 ]] || return "$status"
    exported "$2" || {
        say "$1 ended before its last step; start again to go on"
        return "$PREEMPTED"
    }
    if stopped "$2"; then
        say "$1 was ended by --stop-after; start again without it to go on"
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
    local words name settings=() remarked='' complain=refuse
    read_stages
    read_paths
    read_data
    read_names
    if [[ -n $stage ]]; then
        read_launcher
        read_words EXTRA_ARGS
        extra=("${words[@]}")
        build "${entries[0]}" "$run" ""
    fi
    # What the platform or an earlier launcher exported describes other processes than those started here.
    unset WORLD_SIZE RANK LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK ROLE_RANK MASTER_ADDR MASTER_PORT
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
    for name in "${preparations[@]}"; do
        prepare "$name" || status=$?
        [[ $status == 0 ]] || exit "$status"
    done
    case $stage in
        '') ;;
        both)
            train stage1 "$run/stage1" "" || status=$?
            [[ $status == 0 ]] || exit "$status"
            train stage2 "$run/stage2" "$run/stage1" || status=$?
            ;;
        *) train "${entries[0]}" "$run" "" || status=$? ;;
    esac
    exit "$status"
}

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=preparation.sh
source "$root/runpod/preparation.sh"
main "$@"
