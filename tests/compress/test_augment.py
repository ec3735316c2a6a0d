from __future__ import annotations

import pytest
import torch

from cagc.distill.augment import _NUMBERS, Augment, _colour, _Dice, _mirrored, _resample, _Sample, _warp
from cagc.distill.draws import SampleStreams

# Columns of the gates, in the order in which they are thrown.
MIRROR, TURN, MOVE, SCALE, BRIGHTNESS, CONTRAST, LUMA, HUE, SATURATION = 0, 2, 4, 7, 18, 20, 22, 24, 26


def numbers(n: int = 3, **columns: float) -> torch.Tensor:
    """Numbers that keep every gate shut but those named."""
    out = torch.full((n, _NUMBERS), 0.999)
    for name, value in columns.items():
        column = globals()[name]
        out[:, column], out[:, column + 1] = 0.0, value
    return out


def images(n: int = 3, size: int = 16, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def test_nothing_happens_behind_shut_gates():
    x = images()
    assert Augment(p=0.0)(x, numbers()) is x
    assert torch.equal(Augment(p=0.5)(x, numbers()), x)
    one = torch.cat([numbers(1), numbers(1, MIRROR=0.9), numbers(1)])
    out = Augment(p=0.5)(x, one)
    assert torch.equal(out[::2], x[::2]) and not torch.allclose(out[1], x[1])


def test_resampling_keeps_a_smooth_image_that_is_not_warped():
    y, x = torch.meshgrid(torch.linspace(0, 3, 32), torch.linspace(0, 3, 32), indexing="ij")
    smooth = torch.stack([x.sin(), (x + y).cos(), y.sin()])[None]
    torch.testing.assert_close(_resample(smooth, torch.eye(3)[None]), smooth, rtol=0, atol=0.03)
    quarter = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])[None]
    torch.testing.assert_close(_resample(smooth, quarter), smooth.rot90(-1, (2, 3)), rtol=0, atol=0.03)
    moved = torch.tensor([[1.0, 0, 8 / 32], [0, 1, 0], [0, 0, 1]])[None]
    torch.testing.assert_close(_resample(smooth, moved)[..., :20], smooth[..., 4:24], rtol=0, atol=0.03)


def test_mirror_turn_and_move_are_exact():
    x = images(size=16)
    run = Augment(p=0.5)
    assert torch.equal(run(x, numbers(MIRROR=0.9)), x.flip(3)) and torch.equal(run(x, numbers(MIRROR=0.1)), x)
    for quarter in (0, 1, 2, 3):
        assert torch.equal(run(x, numbers(TURN=quarter / 4 + 0.01)), x.rot90(quarter, (2, 3)))
    both = numbers(MOVE=1.0)
    both[:, MOVE + 2] = 0.5
    out = run(x, both)
    assert torch.equal(out[:, :, 2:], x[:, :, :-2]) and torch.equal(out[:, :, :2], x[:, :, :2].flip(2))


def test_scale_shrinks_and_grows_about_the_centre():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    disc = (0.5 - (x**2 + y**2).sqrt()).mul(8).tanh()[None, None].expand(1, 3, -1, -1)
    areas = [((Augment(p=0.5)(disc, numbers(1, SCALE=u)) + 1) / 2).mean().item() for u in (0.1, 0.5, 0.9)]
    assert areas[0] < 0.9 * areas[1] < 0.81 * areas[2] or areas[0] > 1.1 * areas[1] > 1.21 * areas[2]


def test_only_the_isotropic_scale_changes_areas():
    drawn = torch.rand(20, 11)
    drawn[:10, 0] = 0.99  # its gate, shut
    linear = _warp(_Dice(drawn, 0.9))[:, :2, :2]
    areas = torch.linalg.det(linear)
    torch.testing.assert_close(areas[:10], torch.ones(10))
    assert (areas[10:] - 1).abs().max() > 0.1 and not torch.allclose(linear @ linear.mT, torch.eye(2), atol=0.1)


@pytest.mark.parametrize("gate", ["BRIGHTNESS", "CONTRAST", "LUMA", "HUE", "SATURATION"])
def test_colours_change_what_their_name_says(gate):
    x = images().float()
    out = Augment(p=0.5)(x, numbers(**{gate: 0.8}))
    assert not torch.allclose(out, x, atol=0.05)
    grey, before = out.mean(dim=1), x.mean(dim=1)
    chroma, chroma_before = ((v - v.mean(dim=1, keepdim=True)).norm(dim=1) for v in (out, x))
    difference, ratio = grey - before, grey / before
    if gate == "BRIGHTNESS":
        torch.testing.assert_close(difference, difference.flatten()[0].expand_as(grey), rtol=0, atol=1e-5)
        torch.testing.assert_close(chroma, chroma_before)
    elif gate == "CONTRAST":
        torch.testing.assert_close(out, x * ratio.flatten()[0], rtol=1e-4, atol=1e-5)
    elif gate == "LUMA":
        torch.testing.assert_close(grey, -before, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(chroma, chroma_before)
    else:
        torch.testing.assert_close(grey, before, rtol=1e-4, atol=1e-5)
        factor = (chroma / chroma_before).flatten()[0]
        torch.testing.assert_close(chroma, factor * chroma_before, rtol=1e-3, atol=1e-4)
        assert (abs(factor.item() - 1) < 1e-4) == (gate == "HUE")


def test_colour_matrices_are_built_for_each_image():
    dice = _Dice(torch.rand(4, 10), 1.0)
    assert _colour(dice).shape == (4, 3, 4)


def test_gradients_are_right_twice():
    x = images(2, 6).requires_grad_(True)
    grid = torch.rand(2, 5, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 2.4 - 1.2
    assert torch.autograd.gradcheck(lambda v: _Sample.apply(v, grid), x)
    assert torch.autograd.gradgradcheck(lambda v: _Sample.apply(v, grid).square(), x)
    drawn = torch.rand(1, _NUMBERS, generator=torch.Generator().manual_seed(3))
    pipeline, small = Augment(p=1.0), images(1, 8).requires_grad_(True)
    assert torch.autograd.gradgradcheck(lambda v: pipeline(v, drawn).square().mean(), small, atol=1e-4, fast_mode=True)


def test_probability_follows_the_signs_and_survives():
    run = Augment(target=0.6)
    values = [run.adapt(torch.tensor(0.9), 1000).item() for _ in range(8)]
    assert values == pytest.approx([0, 0, 0, 0.008, 0.008, 0.008, 0.008, 0.016])
    run.adapt(torch.tensor(0.0), 1000)
    other = Augment(target=0.6)
    other.load_state_dict(run.state_dict())
    for _ in range(12):
        assert other.adapt(torch.tensor(0.0), 1000) == run.adapt(torch.tensor(0.0), 1000)
    assert run.p == 0
    for _ in range(4):
        run.adapt(torch.tensor(1.0), 10**6)
    assert run.p == 1


def test_every_number_is_used_and_no_other():
    draws = Augment(p=1.0).draw(SampleStreams(0, 0, "augment", range(5)))
    x = images(5, 16, torch.float32)
    whole = Augment(p=1.0)(x, draws)
    assert whole.shape == x.shape and whole.isfinite().all() and not torch.allclose(whole, x, atol=0.1)
    torch.testing.assert_close(Augment(p=1.0)(x[2:4], draws[2:4]), whole[2:4])
    with pytest.raises(StopIteration):
        Augment(p=1.0)(x, draws[:, :-1])


@pytest.mark.parametrize("size", (2, 4, 7))
def test_small_images(size):
    x = torch.full((2, 3, size, size), 0.5, dtype=torch.float64)
    torch.testing.assert_close(_resample(x, torch.eye(3)[None].expand(2, 3, 3)), x, rtol=0, atol=1e-3)
    row = torch.arange(size, dtype=torch.float64).expand(1, 1, size, size)
    at = torch.arange(-6, size + 6).abs() % (2 * size - 2)
    assert torch.equal(_mirrored(row, 6)[0, 0, 0], torch.minimum(at, 2 * size - 2 - at).double())
