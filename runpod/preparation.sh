#!/usr/bin/env bash
# The stages before a training, for entrypoint.sh, which reads this file; runpod/README.md says what each does. A stage
# writes below DATA_PATH what the next one reads, and a marker that says of which data, by which settings and code.
#
#   DATA_PATH         folder on the volume. Default: data/ of DATA_ROOT, or else /runpod-volume/data
#   RAW_DATA_PATH     what prep looks at: one folder of clips, one file of them, or one data set. Default: DATA_PATH/raw
#   PREP_IMPORT       clips: prep makes one folder of all folders of clips in RAW_DATA_PATH, with one labels.csv;
#                     lerobot | insertion | motion: it writes the data as LeRobot v3.0 (vla import)
#   DATA_ARGS         flags that say how the data are read (--data.motion.up z), for every stage and the training
#   CURATION_ARGS     more flags of vla curate
#   USE_CURATED_DATA  embed and training read what curate left. Default: true where STAGE has curate
#   FORCE_REGENERATE  true: do stages again that are done
# and CURATION_* and TEXT_ENCODER, of the table of training/variables.py.
# shellcheck disable=SC2034,SC2154 # what both files know

# Whether variable $1 says yes, or $2 where it is not set.
wanted() {
    local value=${!1-}
    case ${value,,} in
        '') [[ $2 == yes ]] ;;
        1 | true | yes | on) ;;
        0 | false | no | off) return 1 ;;
        *) refuse "$1 is '$value'; give true or false" ;;
    esac
}

# Whether STAGE has preparation $1.
asked() {
    [[ " ${preparations[*]-} " == *" $1 "* ]]
}

# The words of variable $1 in `words`, by the quoting rules of a shell and without running anything.
read_words() {
    words=()
    [[ -n ${!1-} ]] || return 0
    local answer
    answer=$(mktemp)
    if ! python3 -c 'import os, shlex, sys
sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in shlex.split(os.environ[sys.argv[1]])))' "$1" >"$answer" 2>/dev/null; then
        rm -f "$answer"
        refuse "$1 has a quotation mark that is not closed; quote it as in a shell"
    fi
    mapfile -t -d '' words <"$answer"
    rm -f "$answer"
}

# STAGE as `preparations` and, of what is trained then, `stage` and `entries`.
read_stages() {
    local name order=() kinds=" prep curate embed "
    preparations=() stage='' entries=()
    read -r -d '' -a order <<<"${STAGE:-both}" || true
    for name in "${order[@]}"; do
        [[ -z $stage ]] || refuse "STAGE is '$STAGE', but nothing comes after a training; name it last"
        case $name in
            prep | curate | embed)
                [[ $kinds == *" $name "* ]] || refuse "STAGE is '$STAGE', but the order is prep, curate, embed, each once"
                kinds=" ${kinds#*" $name "}"
                preparations+=("$name")
                continue
                ;;
            1 | 2) entries=("stage$name") ;;
            both) entries=(stage1 stage2) ;;
            pretrain | sft | adapter | unlearn) entries=("$name") ;;
            *) refuse "STAGE is '$STAGE'; give 1, 2, both, pretrain, sft, adapter or unlearn, and before it prep, curate and embed" ;;
        esac
        stage=$name
    done
    ((${#order[@]})) || refuse "STAGE is empty; give 1, 2, both, pretrain, sft, adapter or unlearn, and before it prep, curate and embed"
}

# Where data lie, from one stage to the next.
read_data() {
    absolute "${DATA_PATH:-${DATA_ROOT:+data}}"
    [[ -n ${DATA_PATH-}${DATA_ROOT-} ]] || path=/runpod-volume/data
    data=${path%/}
    path=$data/raw
    [[ -z ${RAW_DATA_PATH-} ]] || absolute "${RAW_DATA_PATH%/}"
    raw=$path
    prepared=$raw
    case ${PREP_IMPORT-} in
        '') ;;
        clips | lerobot | insertion | motion) prepared=$data/prepared ;;
        *) refuse "PREP_IMPORT is '$PREP_IMPORT'; give clips, lerobot, insertion or motion" ;;
    esac
    curated=$data/curated
    embeddings=$data/embeddings.safetensors
    marks=$data/.stages
    read_words DATA_ARGS
    reading=("${words[@]}")
    looking=("${words[@]}")
    # What the flags say of the source stands in a copy of LeRobot's.
    [[ ${PREP_IMPORT:-clips} == clips ]] || reading=()
    # What no command could obey is refused here, before any starts.
    curation=() embedding=()
    if ((${#preparations[@]})); then
        ask variables.py curate
        curation=("${words[@]}")
        read_words CURATION_ARGS
        curation+=("${words[@]}")
    fi
    if asked embed; then
        ask variables.py embed
        embedding=("${words[@]}")
    fi
    force=()
    ! wanted FORCE_REGENERATE no || force=(--force)
    local usual=no
    ! asked curate || usual=yes
    # What a training reads that is told of no data, and the stage that left it; of what is curated its own split.
    trained=()
    if wanted USE_CURATED_DATA "$usual"; then
        trained=("$curated" curate)
    elif asked prep || asked embed; then
        trained=("$prepared" prep)
    fi
    vla=vla
    if ! command -v vla >/dev/null && [[ -x $root/.venv/bin/vla ]]; then
        vla=$root/.venv/bin/vla
    fi
}

# The commands of stage $1 in `commands`, what it reads in `source_data`, the stage `before` it and what that left in
# `from`, and what it leaves itself in `left`.
plan() {
    before='' from=$prepared
    case $1 in
        prep)
            source_data=$raw left=$prepared
            case ${PREP_IMPORT-} in
                '') commands=(doctor) ;;
                clips) commands=(collect doctor) ;;
                *) commands=(doctor import) ;;
            esac
            ;;
        curate) source_data=$prepared left=$curated commands=(curate) before=prep ;;
        embed)
            source_data=${trained[0]-$prepared} left=$embeddings commands=(embed)
            before=${trained[1]-prep} from=${trained[0]-$prepared}
            # Fine-tuning has no text that pre-training has not.
            [[ $before != curate ]] || source_data=$curated/pretrain
            ;;
    esac
}

# Build `command` of step $1 of a stage.
form() {
    local looked=$raw
    [[ ${PREP_IMPORT-} != clips ]] || looked=$prepared
    case $1 in
        collect) command=(python3 -I training/collecting.py "$raw" "$prepared") ;;
        doctor) command=("$vla" doctor "$looked" "${looking[@]}") ;;
        import) command=("$vla" import "$PREP_IMPORT" "$raw" "$prepared" "${looking[@]}") ;;
        curate) command=("$vla" curate "$prepared" "$curated" "${curation[@]}" "${reading[@]}") ;;
        embed) command=("$vla" embed "$source_data" "${embedding[@]}" --out "$embeddings" "${reading[@]}") ;;
    esac
}

# What stage $1 has left in $2 must be whole; where nothing is started that is only said.
vouch() {
    local words complain=refuse
    if [[ $dry_run == yes ]]; then
        ! asked "$1" || return 0
        complain=say
    fi
    ask markers.py vouch "$marks/$1.json" "$2"
}

# Do stage $1 unless it is done; returns its exit code.
prepare() {
    local words step every=() flags=("${force[@]}") status=0
    plan "$1"
    [[ -z $before ]] || vouch "$before" "$from"
    [[ $dry_run == no ]] || flags+=(--dry-run)
    [[ ${commands[0]} != doctor || ! -e $raw ]] || ask collecting.py "$raw"
    for step in "${commands[@]}"; do
        form "$step"
        every+=("${command[@]:1}")
    done
    ask markers.py begin "$marks/$1.json" "$source_data" "$left" "${flags[@]}" -- "${every[@]}"
    [[ ${words[0]-} != done* ]] || return 0
    for step in "${commands[@]}"; do
        form "$step"
        if [[ $dry_run == yes ]]; then
            show
            continue
        fi
        [[ -z $received ]] || return "$PREEMPTED"
        command -v "$vla" >/dev/null || refuse "vla is not installed; run 'make .venv' in '$root' or 'pip install -e .'"
        say "$1: $(show)"
        launch || status=$?
        # The signal that was passed on ended it, and what it has done is kept.
        [[ -z $received || ! $status =~ ^1[34] ]] || status=$PREEMPTED
        [[ $status == 0 ]] || break
    done
    [[ $dry_run == yes ]] || ask markers.py end "$marks/$1.json" "$left" "$status"
    [[ $status == 0 ]] || say "$1 ended with exit code $status"
    return "$status"
}

# The data of entry point $1 in `given`, where no variable names others.
train_on() {
    given=()
    case ${trained[1]-}/$1 in
        /*) ;;
        curate/pretrain | curate/sft) given=("$curated/$1") ;;
        curate/*) refuse "USE_CURATED_DATA is true, but STAGE is $stage, which has no split of its own; set TRAIN_DATA_PATH to '$curated/pretrain' or '$curated/sft', and USE_CURATED_DATA to false" ;;
        *) given=("${trained[0]}") ;;
    esac
}

# The flags for entry point $1 of what stages have left in `known`, their names in `sources`, and what is `missing` of it.
learn() {
    known=("${looking[@]}") sources=() missing=
    ((${#given[@]})) || return 0
    if [[ " ${words[*]} " != *" --data.roots ${given[0]} --"* ]]; then
        remark "TRAIN_DATA_PATH goes before ${given[0]}, which stages leave"
        return 0
    fi
    known=("${reading[@]}") sources=("${trained[1]}")
    [[ -e ${given[0]} ]] || missing=${given[0]}
    [[ $1 == pretrain || $1 == sft ]] || return 0
    if asked embed || [[ -e $marks/embed.json ]]; then
        known+=(--backbone.embeddings "$embeddings")
        sources+=(embed)
        [[ -n $missing || -e $embeddings ]] || missing=$embeddings
    else
        remark "STAGE=embed has left no embeddings of texts: the training reads them with its encoder"
    fi
}

# What stages have left for the training of `command` must be whole.
vouch_for_training() {
    local name
    for name in "${sources[@]}"; do
        case $name in
            embed) vouch embed "$embeddings" ;;
            *) vouch "$name" "${trained[0]}" ;;
        esac
    done
}
