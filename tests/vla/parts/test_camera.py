"""The camera encoder: points against the formula, no leak from invalid cameras, sizes, gradients."""

import pytest
import torch
from torch.nn import functional

from vla.frames import Square
from vla.parts.camera import CameraEncoder, coordinates, points
from vla.settings import CameraConfig

CONFIG = CameraConfig(width=16, pixels=32, tokens=3)
SIZES = ((32, 32), (48, 64), (20, 30))


def encoder(cameras: int = 2, config: CameraConfig = CONFIG) -> CameraEncoder:
    torch.manual_seed(0)
    return CameraEncoder(cameras, 24, config)


def frames(rows: int = 4, cameras: int = 2, seed: int = 0) -> tuple[tuple[torch.Tensor, ...], ...]:
    """Frames of sizes that differ between rows and cameras."""
    generator = torch.Generator().manual_seed(seed)

    def frame(place: int) -> torch.Tensor:
        return torch.randint(0, 256, (3, *SIZES[place % 3]), dtype=torch.uint8, generator=generator)

    return tuple(tuple(frame(row + camera) for camera in range(cameras)) for row in range(rows))


def words(rows: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of a backbone, of which each row has some masked."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 9, 24, generator=generator), torch.arange(9) < torch.arange(6, 6 + rows)[:, None]


def test_points_are_the_mean_place_under_the_softmax() -> None:
    maps = 3 * torch.randn(2, 5, 4, 6)
    found = points(maps)
    assert found.shape == (2, 5, 2)
    for row in range(2):
        for channel in range(5):
            weights = maps[row, channel].double().exp() / maps[row, channel].double().exp().sum()
            x = sum(weights[:, column].sum() * ((2 * column + 1) / 6 - 1) for column in range(6))
            y = sum(weights[line].sum() * ((2 * line + 1) / 4 - 1) for line in range(4))
            assert torch.allclose(found[row, channel], torch.stack([x, y]).float(), atol=1e-6)


def test_a_map_that_is_shifted_by_a_cell_moves_its_point_by_a_cell() -> None:
    maps = torch.full((1, 1, 8, 8), -100.0)
    maps[..., 2:5, 3:5] = torch.randn(3, 2)
    moved = points(maps.roll((1, 2), dims=(2, 3))) - points(maps)
    assert torch.allclose(moved, torch.tensor([2 * 2 / 8, 1 * 2 / 8]), atol=1e-6)


def test_coordinates_are_those_of_cell_centres() -> None:
    x, y = coordinates(2, 4, torch.device("cpu"))
    assert x.tolist() == [[-0.75, -0.25, 0.25, 0.75]] * 2
    assert y.tolist() == [[-0.5] * 4, [0.5] * 4]


def test_whole_frames_of_any_size_give_what_their_squares_give() -> None:
    model, images, seen = encoder(), frames(rows=5), words(5)
    squares = tuple(
        tuple(functional.interpolate(frame[None], (32, 32), mode="bicubic", antialias=True)[0] for frame in row)
        for row in images
    )
    assert len({frame.shape for row in images for frame in row}) == 3
    resized = tuple(tuple({Square(side=32): square} for square in row) for row in squares)
    valid = torch.ones(5, 2, dtype=torch.bool)
    expected = model(squares, valid, seen)[0]
    assert torch.equal(model(images, valid, seen)[0], expected)
    assert torch.equal(model(resized, valid, seen)[0], expected)


def test_rows_and_sizes_do_not_depend_on_their_batch() -> None:
    model, images, seen = encoder(), frames(), words()
    valid = torch.ones(4, 2, dtype=torch.bool)
    together = model(images, valid, seen)[0]
    for row in range(4):
        alone = model(images[row : row + 1], valid[:1], (seen[0][row : row + 1], seen[1][row : row + 1]))[0]
        assert torch.allclose(together[row], alone[0], atol=1e-5)


def test_tokens_of_a_camera_follow_from_it_and_the_instruction() -> None:
    model, images, seen = encoder(), frames(), words()
    valid = torch.ones(4, 2, dtype=torch.bool)
    tokens, mask = model(images, valid, seen)
    assert tokens.shape == (4, 6, 16)
    assert mask.all()
    other = tuple((front, 255 - wrist) for front, wrist in images)
    changed = model(other, valid, seen)[0]
    assert torch.equal(changed[:, :3], tokens[:, :3])
    assert not torch.allclose(changed[:, 3:], tokens[:, 3:], atol=1e-2)
    told = model(images, valid, words(seed=1))[0]
    assert ((told - tokens).abs().amax(dim=-1) > 1e-2).all()


def test_masked_tokens_of_the_backbone_are_not_read() -> None:
    model, images, (tokens, mask) = encoder(), frames(), words()
    valid = torch.ones(4, 2, dtype=torch.bool)
    other = torch.where(mask[..., None], tokens, 1e4)
    assert torch.equal(model(images, valid, (tokens, mask))[0], model(images, valid, (other, mask))[0])


def test_a_camera_that_is_not_valid_reaches_nothing() -> None:
    model, images, seen = encoder(), frames(), words()
    valid = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    tokens, mask = model(images, valid, seen)
    assert torch.equal(mask, valid.repeat_interleave(3, dim=1))
    assert not tokens[~mask].any()
    other = tuple(
        tuple(frame if marked else 255 - frame for frame, marked in zip(row, marks, strict=True))
        for row, marks in zip(images, valid.tolist(), strict=True)
    )
    assert torch.equal(model(other, valid, seen)[0], tokens)


@pytest.mark.parametrize("share", ["all", "one", "none"])
def test_every_parameter_has_a_gradient_whatever_is_valid(share: str) -> None:
    model = encoder()
    valid = torch.ones(4, 2, dtype=torch.bool) if share == "all" else torch.zeros(4, 2, dtype=torch.bool)
    valid[:, 0] = share != "none"
    tokens = model(frames(), valid, words())[0]
    (tokens * torch.randn(tokens.shape)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if share == "all" and not name.endswith("look.2.bias"):  # the softmax of a map does not see it
            assert parameter.grad.any(), name
        if share == "one" and name.startswith("views."):
            assert not parameter.grad.any() or name.startswith("views.0."), name


def test_bfloat16_keeps_points_in_float32() -> None:
    model, images, seen = encoder(), frames(), words()
    valid = torch.ones(4, 2, dtype=torch.bool)
    exact = model(images, valid, seen)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = model(images, valid, (seen[0].bfloat16(), seen[1]))
    assert functional.cosine_similarity(rounded.float(), exact, dim=-1).min() > 0.99
    rounded.sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}


def test_wrong_sizes_are_refused() -> None:
    for values, words_ in (
        ({"width": -1}, "camera.width is -1"),
        ({"tokens": 0}, "camera.tokens 0"),
        ({"pixels": 60}, "multiple of 8"),
        ({"pixels": 0}, "multiple of 8"),
    ):
        with pytest.raises(ValueError, match=words_):
            CameraConfig(**values)
    with pytest.raises(AssertionError, match="built for 2 cameras"):
        encoder()(frames(cameras=3), torch.ones(4, 3, dtype=torch.bool), words())
