"""Which episodes are learned, which are preserved, and which are held out; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What the episodes are for."""

    where: tuple[str, ...] = ()
    """What is learned, `condition=crouch action=kick,jump`: episodes of which all words hold, each a fact of theirs, or
    `instruction`, and one of its values; others are not read, unless --data.preserve keeps them. None: all."""
    preserve: float = 0.0
    """Share of the training samples of episodes that --data.where leaves out: not learned, a policy stays as it is on
    them; 0 <= share < 1."""
    near: tuple[str, ...] = ()
    """Preserved episodes to see more often, written like --data.where, of which any word holds."""
    near_share: float = 0.5
    """Share of the preserved samples of the episodes of --data.near, 0 < share < 1."""
    renamed: float | None = None
    """Share of the learned samples that are of preserved episodes, under an instruction of the learned ones: a policy
    that answers it as another is soon far from the episodes it was given for; 0 <= share < 1. None: 0, with an
    --anchor 0.5."""
    text: str = ""
    """Instruction that is shown for the learned episodes in place of theirs; empty: their own."""
    split_by: str = ""
    """Fact such as `subject` whose values are held out whole for validation; empty: episode by episode."""
    sampling: Literal["windows", "trials"] = "windows"
    """windows: each window is drawn equally often. trials: each episode is, and in it each of its windows."""

    def check_roles(self) -> None:
        """Refuse roles that no data could satisfy (ValueError)."""
        if not 0 <= self.preserve < 1:
            raise ValueError(f"--data.preserve is {self.preserve:g}, expected 0 <= share < 1")
        if self.preserve and not self.where:
            raise ValueError(
                f"--data.preserve {self.preserve:g} keeps what --data.where leaves out, which is missing: say what is "
                "learned, e.g. --data.where action=kick"
            )
        if self.near and not self.preserve:
            raise ValueError(
                "--data.near says which of the preserved episodes are seen more often, and none are: give "
                "--data.preserve too, e.g. 0.5"
            )
        if self.renamed is not None and not 0 <= self.renamed < 1:
            raise ValueError(f"--data.renamed is {self.renamed:g}, expected 0 <= share < 1")
        if self.renamed and not self.preserve:
            raise ValueError("--data.renamed takes preserved episodes, and there are none: leave it out")
        if not 0 < self.near_share < 1:
            raise ValueError(f"--data.near-share is {self.near_share:g}, expected 0 < share < 1")
        if self.near_share != Roles.near_share and not self.near:
            raise ValueError(
                f"--data.near-share {self.near_share:g} says how many samples --data.near gives, which is missing: say "
                "which episodes, e.g. --data.near action=soccer"
            )
