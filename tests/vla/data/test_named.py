"""Names that stand for one folder each."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.data.named import distinct


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/data/pick", "/data/place"], ["pick", "place"]),
        (["/a/pick", "/b/pick", "/b/place"], ["a/pick", "b/pick", "place"]),
        (["/a/x/pick", "/b/x/pick", "/b/y/pick"], ["a/x/pick", "b/x/pick", "b/y/pick"]),
        (["/pick", "/x/pick"], ["pick", "x/pick"]),
        (["/data/pick", "/data/pick"], ["pick", "pick"]),
    ],
)
def test_a_name_of_several_is_lengthened_and_no_other(paths: list[str], expected: list[str]) -> None:
    assert list(distinct([Path(path).name for path in paths], list(map(Path, paths)))) == expected


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), min_size=1, unique=True))
def test_every_path_has_a_name_of_its_own(paths: list[str]) -> None:
    named = distinct([Path(path).name for path in paths], list(map(Path, paths)))
    assert len(set(named)) == len(paths)
    assert all(str(Path(path).absolute()).endswith(f"/{name}") for path, name in zip(paths, named, strict=True))
