"""What is said of a folder of clips: what was chosen by itself, what is not read, and what a copy does not hold."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from vla.data.formats.motion.converted import Converted, Unread
from vla.data.formats.motion.files import KINDS, LABELS, place_of
from vla.listing import visible
from vla.motion.body import Body
from vla.motion_settings import MotionFiles


def remarks_of(clips: Sequence[Converted], body: Body, unread: Sequence[Unread]) -> list[str]:
    """What was chosen by itself, and what is not read."""
    said = dict.fromkeys(remark for clip in clips for remark in clip.remarks)
    having = {remark: [clip.name for clip in clips if remark in clip.remarks] for remark in said}
    remarks = [f"{remark} ({named(names, len(clips))})" for remark, names in having.items()]
    for reason in dict.fromkeys(fact.reason for fact in unread):
        places = [fact.place for fact in unread if fact.reason == reason]
        remarks.append(f"left out, {reason}: {', '.join(places[:4])}{', ...' if len(places) > 4 else ''}")
    if lost := [clip for clip in clips if clip.left_out]:
        worst = max(lost, key=lambda clip: clip.moved_m)
        remarks.append(
            f"{len(worst.left_out)} joints of {worst.name} are left out ({', '.join(worst.left_out[:4])}, ...), which "
            f"moves others by up to {100 * worst.moved_m:.1f} cm; --data.motion.joints all keeps them"
        )
    if partial := sorted({joint for clip in clips for joint in clip.body.joints} - {*body.joints}):
        remarks.append(
            f"{len(partial)} coordinates that not all clips have are left out ({', '.join(partial[:4])}, ...); "
            "--data.motion.joints all refuses such clips"
        )
    if invalid := sum(len(clip.invalid) for clip in clips):
        remarks.append(f"{invalid:,} of {sum(clip.frames for clip in clips):,} frames were not measured and are masked")
    if nameless := sum(not clip.texts for clip in clips):
        remarks.append(f"{nameless:,} of {len(clips):,} clips have no caption; {LABELS} gives one a file")
    return remarks


def remarks_on_labels(labels: Mapping[str, Sequence[Mapping[str, str]]], places: Collection[str]) -> list[str]:
    """Which rows of the labels are of no file that is there or contradict, and where the action is the caption."""
    remarks = []
    if strange := [place for place in labels if place not in places]:
        remarks.append(
            f"{LABELS} has rows of files that are not there ({', '.join(strange[:4])}"
            f"{f' and {len(strange) - 4:,} more' if len(strange) > 4 else ''}): write their places below the folder, "
            f"such as {min(places)}"
        )
    several: dict[str, list[str]] = {}
    for place, rows in labels.items():
        for column in rows[0].keys() - {"file", "text"}:
            values = dict.fromkeys(value for row in rows if (value := row[column].strip()))
            if len(values) > 1:
                several.setdefault(column, []).append(f"{place}: {', '.join(values)}")
    for column, found in sorted(several.items()):
        remarks.append(
            f"{LABELS} says more than one {column} of {len(found):,} files, such as of {found[0]}: the last of them "
            "counts"
        )
    silent = [place for place in places if place in labels and not any(row.get("text") for row in labels[place])]
    if named := [place for place in silent if any(row.get("action") for row in labels[place])]:
        remarks.append(f"{LABELS} has no text of {len(named):,} of {len(places):,} files: the action is their caption")
    return remarks


def remarks_on_strangers(root: Path, known: Collection[Path]) -> list[str]:
    """That files which end as clips do are none that is read."""
    others = [place_of(root, path) for path in visible(root.rglob("*.npz")) if path not in known]
    return (
        [f"not read, since no clip is in them: {', '.join(others[:4])}{', ...' * (len(others) > 4)}"] if others else []
    )


def remarks_on_settings(asked: MotionFiles, kinds: Collection[str]) -> list[str]:
    """Which settings change nothing of the files of some kinds, though they are given."""
    remarks = []
    for field in fields(MotionFiles):
        value = getattr(asked, field.name)
        deaf = [kind for kind in sorted(kinds) if field.name not in KINDS[kind].unsaid]
        if value is not None and deaf:
            flag = f"--data.motion.{field.name.replace('_', '-')} {value}"
            remarks.append(f"{flag} changes nothing of {', '.join(deaf)} files, which leave nothing of it open")
    return remarks


def remarks_of_a_copy(clips: Sequence[Converted]) -> list[str]:
    """What a copy in another format does not hold."""
    lost = ["the names of the clips"]
    if facts := sorted({key for clip in clips for key in clip.facts}):
        lost.append(f"what is said of whole clips ({', '.join(facts)})")
    return [f"a copy does not hold {', '.join(lost)}"]


def named(names: Sequence[str], of: int) -> str:
    """How many of some clips, and which unless it is all of them: `2 clips: a, b`."""
    count = f"{len(names):,} clip{'s' if len(names) > 1 else ''}"
    return count if len(names) == of > 1 else f"{count}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
