from __future__ import annotations

import torch

from cagc.distill.regularizers import path_length_penalty, path_lengths, r1_penalty


def test_r1_of_a_linear_discriminator_is_the_norm_of_its_weights():
    weight = torch.randn(3 * 4 * 4, dtype=torch.float64)
    real = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty((real.flatten(1) @ weight)[:, None], real)
    torch.testing.assert_close(penalty, weight.square().sum())


def test_r1_reaches_the_parameters():
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    real = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    logits = (real.square().mean(dim=(2, 3)) * weight).sum(dim=1, keepdim=True)
    penalty = r1_penalty(logits, real)
    expected = ((2 / 16 * real * weight[:, None, None]) ** 2).sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(penalty, expected)
    ours, theirs = (torch.autograd.grad(p, weight, retain_graph=True)[0] for p in (penalty, expected))
    torch.testing.assert_close(ours, theirs)


def linear_image(ws, weight):
    n = ws.shape[0]
    return (ws.flatten(1) @ weight).reshape(n, 3, 4, 4)


def test_path_length_of_a_linear_generator():
    ws = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(10, 48, dtype=torch.float64)
    noise = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    lengths = path_lengths(linear_image(ws, weight), ws, noise)
    penalty, mean = path_length_penalty(lengths, torch.tensor(0.5).double(), 0.1)
    jacobian = (noise.flatten(1) / 4 @ weight.t()).reshape(3, 2, 5)
    expected = jacobian.square().sum(dim=2).mean(dim=1).sqrt()
    torch.testing.assert_close(lengths, expected)
    torch.testing.assert_close(mean, 0.5 + 0.1 * (expected.mean() - 0.5))
    torch.testing.assert_close(penalty, (expected - mean).square().mean())
    assert not mean.requires_grad


def test_path_length_does_not_depend_on_the_size_of_the_image():
    lengths = []
    for side in (8, 32):
        ws = torch.randn(64, 1, 4, dtype=torch.float64, requires_grad=True)
        image = ws.sum(dim=(1, 2))[:, None, None, None].expand(-1, 3, side, side)
        noise = torch.randn(64, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        lengths.append(path_lengths(image, ws, noise).mean())
    torch.testing.assert_close(lengths[0], lengths[1], rtol=0.2, atol=0)
