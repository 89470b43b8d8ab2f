r"""Adapters of human motion, end to end: styles, their blend and forgotten actions, of several training seeds, judged.

    python -m tests.benchmarks.adapters [--seeds 0 1 2] [--motions 100] [--work runs/adapters-benchmark] \
        [--json docs/benchmarks/adapters.json]

The base is trained by examples/motion.json, and goes on for 4,000 steps, on the clips that ship and on DeepMimic's,
which lie in ../shared and whose texts are read by MiniLM; the zombie's and the stealthy walk are kept from it. Styles
are asked for by `a person walks forward`, the caption of other walks. What the work folder holds is not trained again.
Adapters are trained once a seed, but those in closed form, which have none; they are judged by `vla evaluate --suites
style` and `--suites unlearning`, whose judge and noise have that seed, too. A threshold is held by the worse end of the
interval where it is one of shares, pooled over seeds; of changes in pairs by the mean, whose intervals stand in what is
written.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.motion import CLIPS, HELD_OUT, REPOSITORY, TRAINED, Line
from vla import adapting
from vla.commands.motions import open_clips
from vla.commands.recordings import as_body_of
from vla.evaluation.adapted.bench import Bench, questions_of
from vla.evaluation.intervals import wilson
from vla.motion_settings import NamedMotionFiles
from vla.policy_folder import load_policy

DEEPMIMIC = REPOSITORY.parent / "shared" / "data" / "deepmimic_motions"
TEXTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "kick": ("kick", ("a person kicks", "a man does a kick", "a person kicks with the right leg")),
    "spinkick": ("kick", ("a person does a spinning kick", "a person kicks while turning around")),
    "punch": ("punch", ("a person throws punches", "a man punches the air")),
    "dance_a": ("dance", ("a person dances",)),
    "dance_b": ("dance", ("a man is dancing",)),
    "jump": ("jumping", ("a person jumps", "a man leaps up")),
    "walk": ("walking", ("a person walks forward",)),
    "jog": ("running", ("a person jogs",)),
    "run": ("running", ("a person runs",)),
    "roll": ("roll", ("a person rolls on the ground",)),
    "cartwheel": ("cartwheel", ("a person does a cartwheel",)),
    "backflip": ("backflip", ("a person does a backflip",)),
}
"""Of DeepMimic's clips the action and captions, which their files do not say."""
STYLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "zombie_walk": ("zombie", ("a person walks like a zombie",)),
    "stealthy_walk": ("stealthy", ("a person walks stealthily",)),
}
PROMPT = "a person walks forward"
"""What styles are asked for by, and what is done in place of what is forgotten."""
SECOND = (
    *("--backbone.path", "minilm", "--data.horizon", "32", "--data.balance", "action", "--data.retarget", "1"),
    *("--data.validation-share", "0.05", "--expert.width", "96", "--expert.depth", "3", "--diffusion.sampler", "dpm++"),
    *("--dropout", "0", "--ema-decay", "0.995", "--batch-size", "64", "--micro-batch", "64", "--stage.steps", "4000"),
    *("--stage.lr.expert", "7e-4"),
)
"""How a base goes on after examples/motion.json: of its walks 16 % are called not human before."""
LINEARS = r"expert\.blocks\.\d+\.(.*attention\.(query|key_value|out)|feed\..*)"
"""Layers of the adapters of styles. Of attention alone, 400 steps at 1e-3, 0 to 2 of 100 motions were recognised."""
FORGOTTEN = ("kick", "jumping")
BOTH = "no-kick-and-jumping-esd"
TOGETHER = (
    (),
    ("zombie",),
    ("no-kick-esd",),
    ("zombie", "no-kick-esd"),
    ("no-kick-esd", "no-jumping-esd"),
    (BOTH,),
)
"""Adapters that are on at once, each at weight 1; the last one has forgotten two actions."""
ASKED = {
    "zombie": ("zombie", (PROMPT,)),
    "walking": ("walking", (PROMPT,)),
    "kick": ("kick", TEXTS["kick"][1]),
    "jumping": ("jumping", TEXTS["jump"][1]),
    "soccer": ("soccer", ("a person kicks a soccer ball",)),
}
"""What is asked for, and by what it is to be called."""
METHODS = ("esd", "uce")
"""The second is computed, whatever the seed."""
NEAR = 0.5
"""Cosine of captions from which on an action counts as near what is forgotten."""

Found = dict[str, Any]
"""What was measured of one seed, by name."""


def write_clips(folder: Path, clips: Mapping[str, tuple[str, tuple[str, ...]]]) -> Path:
    """DeepMimic's clips with labels beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "text", "action"))
        for name, (action, texts) in clips.items():
            own = f"humanoid3d_{name}.txt"
            shutil.copyfile(DEEPMIMIC / own, folder / own)
            rows.writerows((own, text, action) for text in texts)
    return folder


def launch(entry: str, *words: str | Path) -> None:
    """An entry point on one rank of the CPU."""
    how = ["--config_file", "accelerate_configs/cpu.yaml", "--main_process_port", "0", "--num_processes", "1"]
    run(str(Path(sys.executable).parent / "accelerate"), "launch", *how, f"training/{entry}.py", *words)


def run(*words: str | Path) -> None:
    """A command, whose output is shown."""
    command = [str(word) for word in words]
    subprocess.run(command, check=True, cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"})


def base_of(work: Path, motions: int) -> tuple[Path, Found]:
    """The base and its figures by name, made where the work folder lacks them."""
    trained = clips_of(work)[0]
    first, base = work / "first" / "policy", work / "base" / "policy"
    if not (first / "config.json").is_file():
        launch(
            "pretrain", "--config", "examples/motion.json", "--backbone.path", "minilm", "--data.roots", *trained,
            "--out", first.parent,
        )  # fmt: skip
    if not (base / "config.json").is_file():
        launch("sft", "--init-from", first, "--data.roots", *trained, *SECOND, "--out", base.parent)
    return base, {row["name"]: row for row in evaluated(work / "judged", base, trained, motions, 0)["rows"]}


def clips_of(work: Path) -> tuple[list[Path], list[Path]]:
    """The folders that a base learns, and those with the styles."""
    trained = [*map(Path, TRAINED), write_clips(work / "clips", TEXTS)]
    return trained, [*trained, write_clips(work / "styles", STYLES)]


def measure(seed: int, base: Path, work: Path, motions: int, methods: Sequence[str]) -> Found:
    """All that is measured of one training seed; what is there already is read."""
    trained, every = clips_of(work)
    own, found = work / f"seed-{seed}", Found()
    for style, _ in STYLES.values():
        made = own / style
        if not (made / "adapter").is_dir():
            launch(
                "adapter", "--init-from", base, "--data.roots", *every, "--data.balance", "action",
                "--data.where", f"action={style}", "--data.text", PROMPT, "--adapter.name", style,
                "--adapter.targets", LINEARS, "--stage.lr.adapter", "2e-3", "--stage.steps", "600",
                "--micro-batch", "32", "--seed", str(seed), "--out", made,
            )  # fmt: skip
        found[style] = evaluated(
            own / f"{style}-judged", base, every, motions, seed, "--suites", "style", "--styles", style,
            "--prompt", PROMPT, "--adapter", made / "adapter",
        )  # fmt: skip
    names = [style for style, _ in STYLES.values()]
    both = [word for name in names for word in ("--adapter", own / name / "adapter")]
    asked = ["--suites", "style", "--prompt", PROMPT, "--styles", *names]
    found["blend"] = evaluated(own / "blend-judged", base, every, motions, seed, *asked, *both)
    for concept in FORGOTTEN:
        for method in methods:
            made = own / f"no-{concept}-{method}"
            if not (made / "adapter").is_dir():
                launch(
                    "unlearn", "--init-from", base, "--data.roots", *trained, "--concept", concept,
                    "--method", method, "--anchor", PROMPT, "--stage.steps", "400", "--micro-batch", "32",
                    "--seed", str(seed), "--out", made,
                )  # fmt: skip
            found[f"no {concept}, {method}"] = evaluated(
                own / f"{made.name}-judged", base, trained, motions, seed, "--suites", "unlearning",
                "--adapter", made / "adapter",
            )  # fmt: skip
    both_forgotten = own / BOTH
    if len(methods) > 1 and not (both_forgotten / "adapter").is_dir():
        launch(
            "unlearn", "--init-from", base, "--data.roots", *trained, "--concept", *FORGOTTEN, "--anchor", PROMPT,
            "--stage.steps", "400", "--micro-batch", "32", "--seed", str(seed), "--out", both_forgotten,
        )  # fmt: skip
    found["together"] = together(own, base, every, motions, seed)
    return found


def together(own: Path, base: Path, every: Sequence[Path], motions: int, seed: int) -> Found:
    """Adapters that are on at once: what is forgotten and what is done otherwise, by which of them are on."""
    file = own / "together.json"
    if not file.is_file():
        policy = load_policy(base)
        policy.set_mode(training=False)
        settings = as_body_of(policy.contract, NamedMotionFiles())
        clips, held_out = (
            [open_clips(str(folder), policy.contract, settings) for folder in folders]
            for folders in (every, [HELD_OUT])
        )
        bench = Bench.of(policy, clips, held_out, seed, None)
        found: Found = {}
        for names in TOGETHER:
            words = [str(own / name / "adapter") for name in names if (own / name / "adapter").is_dir()]
            if len(words) < len(names):
                continue
            adapting.blend(policy, words)
            policy.adapters.fold()
            found[" + ".join(names) or "base"] = {
                label: asdict(bench.ask(policy, questions_of(texts, asked, motions, seed)).told(seed))
                for label, (asked, texts) in ASKED.items()
            }
            policy.adapters.set({})
            for name in list(policy.adapters.names):
                policy.adapters.remove(name)
        file.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    content: Found = json.loads(file.read_text())
    return content


def evaluated(
    out: Path, policy: Path, training: Sequence[Path], motions: int, seed: int, *words: str | Path
) -> dict[str, Any]:
    """What `vla evaluate` writes of a policy."""
    names = {"style": "style.json", "unlearning": "certificate.json"}
    file = out / names.get(str(words[1]) if words else "", "motions.json")
    if not file.is_file():
        vla = Path(sys.executable).parent / "vla"
        asked: list[str | Path] = [
            "--data.roots",
            HELD_OUT,
            "--training",
            *training,
            "--motions",
            str(motions),
            "--seed",
            str(seed),
        ]
        run(vla, "evaluate", policy, *asked, *words, "--out", out)
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def pooled(figures: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """A share over all seeds, with Wilson's interval."""
    hits, total = sum(round(one["value"] * one["n"]) for one in figures), sum(one["n"] for one in figures)
    low, high = wilson(hits, total)
    return hits / total, low, high


def meant(figures: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """The mean of some seeds, judged by itself: the worst ends of their intervals stand in the rows."""
    value = sum(one["value"] for one in figures) / len(figures)
    return value, value, value


def judge(base: Found, seeds: Sequence[Found]) -> list[Line]:
    """All thresholds."""
    lines: list[Line] = []

    def line(what: str, found: tuple[float, float, float], **bounds: float) -> None:
        lines.append(Line(what=what, value=found[0], low=found[1], high=found[2], **bounds))

    for action in FORGOTTEN:
        line(
            f"base: recall, {action}",
            pooled([base[f"recall, {action}"]["samples"]]),
            at_least=0.7,
        )
    line("base: steps, walking", pooled([base["steps, walking"]["samples"]]), at_least=0.95)
    for style, _ in STYLES.values():
        last = [own[style]["points"][-1] for own in seeds]
        line(f"{style}: recognised", pooled([point["styles"][style] for point in last]), at_least=0.9)
        line(f"{style}: stepping", pooled([point["stepping"] for point in last]), at_least=0.9)
        others = [other for own in seeds for other in own[style]["others"]]
        before, after = (sum(other[which]["recall"]["value"] for other in others) for which in ("base", "adapter"))
        line(f"{style}: recall of others / the base's", (after / before,) * 3, at_least=0.9)
    for quantity in seeds[0]["blend"]["correlations"]:
        worst = min(abs(own["blend"]["correlations"][quantity]) for own in seeds)
        line(f"blend: rank correlation, {quantity}", (worst,) * 3)
    kept = [point["kept"] for own in seeds for point in own["blend"]["points"]]
    line("blend: action or style kept", pooled(kept), at_least=0.9)
    for name in (f"no {concept}, {method}" for concept in FORGOTTEN for method in METHODS):
        own = [seed[name]["lines"] for seed in seeds if name in seed]
        recalled = [one["recall"]["found"]["adapter"] for one in own]
        otherwise = [one["paraphrases"]["found"]["adapter"]["recall"] for one in own]
        line(f"{name}: recall", pooled([told["recall"] for told in recalled]), at_most=0.1)
        line(f"{name}: not human", pooled([told["not_human"] for told in recalled]), at_most=0.1)
        line(f"{name}: paraphrases", pooled(otherwise), at_most=0.15)
        for what, near, most in (("far", False, -0.05), ("near", True, -0.15)):
            changes = [
                beside["found"]["change"]
                for one in own
                for beside in one["neighbours"]
                if ((beside["similarity"] or 0) >= NEAR) == near and beside["found"]["change"]["value"] is not None
            ]
            if changes:
                line(f"{name}: change of {what} actions", meant(changes), at_least=most)
        apart = [
            tuple(one["distance"][which]["distance"]["value"] for which in ("real_adapter", "real_base"))
            for one in own
            if one["distance"]["real_base"]["distance"] is not None
        ]
        if apart:
            ratio = sum(after / before for after, before in apart) / len(apart)
            line(f"{name}: Frechet distance of others / the base's", (ratio,) * 3, at_most=1.1)
        line(f"{name}: best text brings back", pooled([one["inversion"]["prompt"]["fresh"]["recall"] for one in own]))
        line(f"{name}: off, largest difference", (max(one["off"]["max_difference"] for one in own),) * 3, at_most=0.0)
    for name in seeds[0]["together"]:
        own = [seed["together"][name] for seed in seeds if name in seed["together"]]
        for label in ASKED:
            line(f"{name}: called {label}", pooled([told[label]["recall"] for told in own]))
    return lines


def main() -> None:
    """Train what is missing, judge all, print the lines and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--motions", type=int, default=100)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "adapters-benchmark")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if not DEEPMIMIC.is_dir():
        sys.exit(f"{DEEPMIMIC} is missing: put DeepMimic's clips there")
    work = asked.work.absolute()
    base, judged = base_of(work, asked.motions)
    found = [
        measure(seed, base, work, asked.motions, METHODS if seed == asked.seeds[0] else METHODS[:1])
        for seed in asked.seeds
    ]
    lines = judge(judged, found)
    print("\n".join(map(str, lines)))
    if asked.json:
        content = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "seeds": asked.seeds,
            "motions": asked.motions,
            "clips": [str(path.relative_to(CLIPS.parents[1])) for path in map(Path, TRAINED)] + ["deepmimic_motions"],
            "thresholds": [line.to_json() for line in lines],
            "base": judged,
            "found": found,
        }
        said = json.dumps(content, indent=1, allow_nan=False)
        for folder in (work, REPOSITORY):  # where it was measured says nothing
            said = said.replace(f"{folder}/", "")
        asked.json.write_text(said + "\n")


if __name__ == "__main__":
    main()
