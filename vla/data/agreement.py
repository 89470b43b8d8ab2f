"""What roots that are mixed must agree on, where more than one of them says it."""

from collections.abc import Sequence

from vla.units import disagreeing, told


def agree_on_names(
    what: str, roots: Sequence[str], named: Sequence[tuple[str, ...]], fix: str = "convert the other"
) -> tuple[str, ...]:
    """The names of dimensions, of the roots that name them; ValueError where two do otherwise."""
    naming = [(root, names) for root, names in zip(roots, named, strict=True) if names]
    for root, names in naming[1:]:
        if names != naming[0][1]:
            raise ValueError(apart(naming[0][0], root, what, (" ".join(naming[0][1]), " ".join(names)), fix))
    return naming[0][1] if naming else ()


def agree_on_units(what: str, roots: Sequence[str], said: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The units of dimensions: of each, that of the roots that say one; ValueError where two say different ones."""
    saying = [(root, units) for root, units in zip(roots, said, strict=True) if units]
    for place, (root, units) in enumerate(saying):
        for other, theirs in saying[:place]:
            if places := disagreeing(theirs, units):
                raise ValueError(apart(other, root, what, (told(theirs, places), told(units, places))))
    return tuple(map(_first, zip(*(units for _, units in saying), strict=True)))


def apart(one: str, other: str, what: str, differing: tuple[str, str], fix: str = "convert the other") -> str:
    """What is said of two roots that cannot be mixed."""
    return (
        f"{one} and {other} cannot be mixed, their {what} differ: {' and '.join(differing)}; train on one of them, or "
        f"{fix}"
    )


def _first(units: Sequence[str]) -> str:
    return next(filter(None, units), "")
