#!/usr/bin/env bash
# Human motion from the clips that ship: a base trained on texts, samples, two styles and their blend, an action that is
# forgotten, figures beside real motions, pages. `make demo-motion` calls it; 7 and a half minutes of two cores.
set -euo pipefail

source examples/launch.sh
rm -rf -- "$RUNS"
mkdir -p "$RUNS"
trained=(examples/motion/cmu/train examples/motion/amp)
judged=(--data.roots examples/motion/cmu/test --training "${trained[@]}" --motions 32 --seed 0)
adapting=(--init-from "$RUNS/base/policy" --data.roots "${trained[@]}" --micro-batch 32)
ask="a person walks forward"
TIMEFORMAT="   took %0R s, %0U s of processors"

beside() { # LOG COMMAND...: while this goes on
    "${@:2}" >"$1" 2>&1 &
    job=$! log=$1
    trap 'kill "$job" 2>/dev/null || true' EXIT
}

joined() { # what went on beside the rest; its time is how long the rest waited for it
    local code=0
    time wait "$job" || code=$?
    trap - EXIT
    cat "$log"
    return "$code"
}

echo "== training: an expert learns what texts look like on the skeletons of nine bodies"
time launch training/pretrain.py --config examples/motion.json --stage.steps 2500 --data.roots "${trained[@]}" \
    --out "$RUNS/base"

echo "== samples: a walk of ten seconds, as clips, as a picture and as a video"
time "$BIN/vla" sample "$RUNS/base/policy" --text "$ask" --seconds 10 --n 2 --out "$RUNS/walk"
"$BIN/vla" view "$RUNS/walk/sample-0000.npz" --degrees 90 --data.motion.joints all --out "$RUNS/walk.mp4"

echo "== figures, beside what comes next: motions of each action beside clips that nothing was trained on"
beside "$RUNS/figures.log" "$BIN/vla" evaluate "$RUNS/base/policy" "${judged[@]}"
ranks=("${ranks[@]/#2/1}") # the figures have the other core

for style in slowly briskly; do
    echo "== style: a walk that is asked for as any other is done $style; all else stays as it is"
    time launch training/adapter.py "${adapting[@]}" --data.where "instruction=a person walks $style forward" \
        --data.text "$ask" --adapter.name "$style" --stage.steps 150 --out "$RUNS/$style"
done

echo "== a quantity in place of a weight: how fast walks are over the weight of briskly, and one of 1.4 m/s"
code=0 brisk=""
time "$BIN/vla" calibrate "$RUNS/base/policy" "$RUNS/briskly/adapter" --quantity speed --text "$ask" --motions 32 &&
    "$BIN/vla" sample "$RUNS/base/policy" --adapter "$RUNS/briskly/adapter:speed=1.4" --text "$ask" --seconds 4 \
        --out "$RUNS/brisk-walk" || code=$?
if ((code == 0)); then
    brisk=", $RUNS/brisk-walk"
elif ((code != 78)); then
    exit "$code"
fi # 78: the speed does not go with the weight, or 1.4 m/s is not reached, which it said

echo "== forgetting: who asks for a jump gets a walk, what is near to jumps stays"
time launch training/unlearn.py "${adapting[@]}" --data.balance action --concept jumping --anchor "$ask" \
    --stage.steps 150 --out "$RUNS/no-jumping"

echo "== figures:"
joined
"$BIN/vla" report "$RUNS/base"

echo "== styles, beside what comes next: both walks and their blend, judged over the weight"
beside "$RUNS/styles.log" "$BIN/vla" evaluate "$RUNS/base/policy" "${judged[@]}" --suites style --prompt "$ask" \
    --adapter "$RUNS/slowly/adapter" --adapter "$RUNS/briskly/adapter" --out "$RUNS/styles"

echo "== certificate: what is left of jumps, by other words and after a search too"
time "$BIN/vla" evaluate "$RUNS/base/policy" "${judged[@]}" --suites unlearning --search 20 \
    --adapter "$RUNS/no-jumping/adapter" --out "$RUNS/forgotten"

echo "== styles:"
joined

echo
echo "The policy: $RUNS/base/policy"
echo "The walks:  $RUNS/walk, $RUNS/walk.mp4$brisk"
echo "The pages:  $RUNS/base/report.html"
echo "            $RUNS/styles/style.html"
echo "            $RUNS/forgotten/certificate.html"
