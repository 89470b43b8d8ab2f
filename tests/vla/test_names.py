"""What long names are called, and what a user may call them."""

import pytest

from vla.names import by_word, hint, labels


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["observation.wrench", "observation.tactile"], ["wrench", "tactile"]),
        (["observation.left.force", "observation.right.force"], ["left.force", "right.force"]),
        (["observation.images.wrist", "sensor/wrist", "state"], ["images.wrist", "sensor/wrist", "state"]),
        (["force", "observation.force"], ["force", "observation.force"]),
        ([], []),
    ],
)
def test_a_label_is_the_shortest_ending_that_no_other_name_has(names: list[str], expected: list[str]) -> None:
    assert list(labels(names).values()) == expected
    assert by_word(names) == dict(zip(expected, names, strict=True)) | {name: name for name in names}


def test_a_word_that_calls_none_is_told_what_it_may_mean() -> None:
    names = ["observation.left.force", "observation.right.force", "observation.wrench"]
    assert hint("force", names) == "it may be observation.left.force or observation.right.force"
    assert hint("wrensh", names) == "did you mean wrench?"
    assert hint("zzz", names[2:]) == "there is observation.wrench"
    assert hint("zzz", []) == "there is none"
