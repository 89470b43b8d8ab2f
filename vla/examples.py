"""Two examples of each command, which its help begins with."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, str]] = {
    "": ("vla doctor /data/pick", "vla evaluate runs/pick/stage2/policy --data.roots /data/pick"),
    "evaluate": (
        "vla evaluate runs/pick/stage2/policy --data.roots /data/pick --env needle",
        "vla evaluate runs/walk/policy --suites",
    ),
    "ablate": (
        "vla ablate runs/pick/stage2/policy --data.roots /data/pick",
        "vla ablate runs/pick/stage2/policy --data.roots /data/pick --inputs sensor",
    ),
    "calibrate": (
        "vla calibrate POLICY runs/slow --quantity speed --text 'a person walks'",
        "vla calibrate POLICY slow --quantity speed --text 'a person walks' --out new",
    ),
    "merge": (
        "vla merge runs/pick/stage2/policy runs/pick/merged",
        "vla merge runs/walk/policy runs/slow --adapter runs/zombie:0.7",
    ),
    "doctor": ("vla doctor /data/pick", "vla doctor /data/pick /data/place --data.horizon 30 --json"),
    "info": ("vla info runs/pick/stage2", "vla info runs/pick/stage2/policy --json"),
    "embed": (
        "vla embed /data/walks --backbone.path minilm",
        "vla embed /data/walks /data/kicks --backbone.path hash --out texts.safetensors",
    ),
    "cache": (
        "vla cache build --data.roots /data/pick --backbone.path /models/3B",
        "vla cache prune --older-than 7",
    ),
    "import": (
        "vla import insertion /data/recordings /data/recordings_v30",
        "vla import gaitdynamics GaitDynamicsDiffusion.pt /models/gait",
    ),
    "export": (
        "vla export /data/walks /data/walks_bvh",
        "vla export walk.amc /data/walk --format npz --data.motion.source-rate-hz 120",
    ),
    "curate": (
        "vla curate /data/clips /data/curated",
        "vla curate /data/clips /data/curated --min-quality-sft 0.9 --held-out 0.2",
    ),
    "needle": (
        "vla needle demos --out /data/needle",
        "vla needle demos --episodes 100 --error-mm 1 --out /data/easy",
    ),
    "sample": (
        "vla sample runs/walk/policy --text 'a person walks forward' --out walks",
        "vla sample POLICY --text 'a person walks' --adapter zombie:0.7 --out slow",
    ),
    "forces": (
        "vla forces runs/gait/policy /data/walks --out forces",
        "vla forces runs/gait/policy walk1_ik.mot --calibrate /data/held --out walk1",
    ),
    "view": ("vla view /data/walks --out walks.png", "vla view walks/sample-0000.npz --out walk.mp4"),
    "plan": (
        "vla plan 3B --gpu H200 --gpus 8 --batch-size 256 --price 3.5",
        "vla plan 7B --finetune-vl full --gpu 'RTX 4090' --gpus 2 --machines 4 --json",
    ),
    "report": ("vla report runs/pick/stage2", "vla report runs/pick/stage2 --out stage2.html"),
}
"""By command; those of `vla` itself under no name."""
