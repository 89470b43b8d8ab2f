"""What can be meant as an instruction."""

MAX_INSTRUCTION = 2000
"""Characters of the longest one: far more than a task needs, far less than would fill the memory."""


def check_instruction(instruction: str, owner: str, place: str = "the task list") -> None:
    """Refuse an instruction that is empty or too long to be one; `place` is where its `owner` has it from.

    Raises:
        ValueError: it is empty or longer than 2,000 characters.
    """
    if not instruction.strip():
        raise ValueError(f"{owner} has an empty instruction; write what is asked for into {place}")
    if len(instruction) > MAX_INSTRUCTION:
        raise ValueError(
            f"{owner} has an instruction of {len(instruction):,} characters ({instruction[:40]!r}...), at most "
            f"{MAX_INSTRUCTION:,} are accepted; shorten it in {place}"
        )
