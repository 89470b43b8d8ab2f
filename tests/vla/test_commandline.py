"""A mistake on the command line is one sentence, and gives no secret away."""

from dataclasses import dataclass
from typing import Literal

import pytest

from vla import commandline
from vla.redaction import HIDDEN


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of several kinds."""

    size: int = 3
    """A number."""
    name: str = ""
    """A text."""
    places: tuple[str, ...] = ()
    """Texts."""
    width: int | Literal["auto"] = "auto"
    """A number, or a word."""


@pytest.mark.parametrize("length", [1, 4, 40])
def test_a_refused_value_is_hidden_even_where_its_line_is_broken(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Boxes of 80 columns break a long word; half a secret is none that could be found."""
    canary = "canary7f3a9c51" * length
    monkeypatch.setenv("MY_SECRET_TOKEN", canary)
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(ValueError, match=f"^--size does not fit: .*'{HIDDEN}'$") as refusal:
        commandline.parse(Settings, ["--size", canary], "--help", default=Settings())
    shown = str(refusal.value).replace(" ", "")
    assert "canary" not in shown
    assert "9c51" not in shown


def test_a_value_of_several_kinds_is_refused_with_all_of_them() -> None:
    with pytest.raises(ValueError, match=r"^--width cannot be 'wide'; give INT or auto$"):
        commandline.parse(Settings, ["--width", "wide"], "--help", default=Settings())


def test_a_secret_that_looks_like_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET_TOKEN", "--canary7f3a9c51")
    with pytest.raises(ValueError, match="with a secret in it") as refusal:
        commandline.parse(Settings, ["--name", "--canary7f3a9c51"], "--help", default=Settings())
    assert "canary" not in str(refusal.value)


def test_values_that_fit_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET_TOKEN", "canary7f3a9c51")
    settings, unknown = commandline.parse(
        Settings, ["--places", "/data/canary7f3a9c51", "--other"], "--help", default=Settings()
    )
    assert settings.places == ("/data/canary7f3a9c51",)
    assert unknown == ["--other"]
