"""Group 7: losses, regularisers and masked tensors of the paper's authors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cagc.checkpoints import Checkpoint, to_rosinality
from cagc.checkpoints.rosinality import generator_from_rosinality
from cagc.content import apply_mask, resize_mask
from cagc.distill.losses import discriminator_loss, generator_loss, rgb_loss
from cagc.distill.regularizers import path_length_penalty, path_lengths, r1_penalty
from cagc.models.bisenet import CLASSES

from .vectors import Case, cases, load_torch

EXACT = dict(rtol=1e-9, atol=1e-10)
NOT_CONTENT = torch.tensor([CLASSES.index(name) for name in ("background", "cloth")])


def content_mask(labels: torch.Tensor, size: int) -> torch.Tensor:
    """The authors' mask of a distillation batch: [N, 1, size, size], float64."""
    content = ~torch.isin(labels.long(), NOT_CONTENT)
    return resize_mask(content, size, rule="bilinear")[:, None].double()


@cases("7", "gan_losses")
def test_gan_losses(case: Case):
    real, fake = case.f64("real_pred").requires_grad_(), case.f64("fake_pred").requires_grad_()
    loss = discriminator_loss(real, fake)
    torch.testing.assert_close(loss, case.f64("d_logistic_loss"), **EXACT)
    d_real, d_fake = torch.autograd.grad(loss, (real, fake))
    torch.testing.assert_close(d_real, case.f64("d_d_real"), **EXACT)
    torch.testing.assert_close(d_fake, case.f64("d_d_fake"), **EXACT)
    loss = generator_loss(fake)
    torch.testing.assert_close(loss, case.f64("g_nonsaturating_loss"), **EXACT)
    torch.testing.assert_close(torch.autograd.grad(loss, fake)[0], case.f64("d_g_fake"), **EXACT)


def carrier(case: Case, weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network that ``options.net`` describes."""
    x = F.leaky_relu(F.conv2d(x, weights["c1_weight"], weights["c1_bias"], stride=2, padding=1), 0.2)
    x = torch.tanh(F.conv2d(x, weights["c2_weight"], weights["c2_bias"], stride=2, padding=1))
    return F.linear(x.flatten(1), weights["fc_weight"], weights["fc_bias"])


@cases("7", "d_r1_loss")
def test_r1(case: Case):
    names = [name.removeprefix("w_") for name in case.keys if name.startswith("w_")]
    weights = {name: case.f64(f"w_{name}").requires_grad_() for name in names}
    real = case.f64("real").requires_grad_()
    real_logits, fake_logits = carrier(case, weights, real), carrier(case, weights, case.f64("fake"))
    torch.testing.assert_close(real_logits, case.f64("real_pred"), **EXACT)
    penalty, logistic = r1_penalty(real_logits, real), discriminator_loss(real_logits, fake_logits)
    torch.testing.assert_close(penalty, case.f64("r1").reshape([]), **EXACT)
    torch.testing.assert_close(logistic, case.f64("d_logistic_loss"), **EXACT)
    for prefix, loss in (("dr1", penalty), ("dlog", logistic)):
        gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(weights, gradients):
            expected = case.f64(f"{prefix}_{name}")
            gradient = torch.zeros_like(expected) if gradient is None else gradient
            torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-10, msg=lambda m: f"{prefix} {name}: {m}")


@cases("7", "path_length")
def test_path_length(case: Case):
    g = generator_from_rosinality(load_torch(case.options["weights"])["g_ema"]).double().requires_grad_(True)
    mix = case.f64("z2") if "z2" in case else None
    ws = g.ws(case.f64("z"), mix, case.options["inject_index"])
    image = g.synthesis(ws, [noise.double() for noise in case.series("noise_")])
    torch.testing.assert_close(image, case.f64("img"), rtol=1e-6, atol=1e-6)
    before = torch.tensor(float(case.options["mean_path_length_prev"]), dtype=torch.float64)
    lengths = path_lengths(image, ws, case.f64("rnoise"))
    penalty, mean = path_length_penalty(lengths, before, case.options["decay"])
    torch.testing.assert_close(lengths, case.f64("path_lengths"), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(mean, case.f64("path_mean"), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(penalty, case.f64("path_loss"), rtol=1e-6, atol=1e-9)
    penalty.backward()
    for p in g.parameters():
        p.data = torch.zeros_like(p) if p.grad is None else p.grad
    ours = to_rosinality(Checkpoint(g_ema=g))["g_ema"]
    for name in (key.removeprefix("dloss:") for key in case.keys if key.startswith("dloss:")):
        expected = case.f64(f"dloss:{name}")
        tolerance = 2e-5 * expected.abs().max().item()
        torch.testing.assert_close(
            ours[name].reshape(expected.shape), expected, rtol=2e-5, atol=tolerance, msg=lambda m: f"{name}: {m}"
        )


@cases("7", "Get_Masked_Tensor")
def test_masked_tensor(case: Case):
    mask = content_mask(case["labels"], case.options["size"])
    if case.options["n"] == 1:  # the peer then applies row 0 of the mask to every row
        mask = mask[:, :, :1].expand_as(mask)
    assert torch.equal(mask[:, 0], case.f64("effective_mask"))
    torch.testing.assert_close(apply_mask(case.f64("img"), mask), case.f64("masked"), **EXACT)


@cases("7", "KD_loss")
def test_kd_loss(case: Case):
    options = case.options
    mode = {"Output_Only": "output", "Intermediate": "intermediate"}[options["kd_mode"]]
    teacher = generator_from_rosinality(load_torch(options["teacher"]["weights"])["g_ema"]).double()
    mix = case.f64("z2") if "z2" in case else None
    ws = teacher.ws(case.f64("z"), mix, options["inject_index"])
    targets = teacher.synthesis(ws, [noise.double() for noise in case.series("noise_")], return_rgbs=True)
    for rgb, expected in zip(targets, case.series("teacher_rgb_"), strict=True):
        torch.testing.assert_close(rgb, expected.double(), rtol=1e-6, atol=1e-6)
    # The peer forgets its mask in intermediate mode (erratum E6); tests/compress/test_losses.py has our rule.
    masked = options["content_aware"] and mode == "output"
    mask = content_mask(case["labels"], targets[-1].shape[-1]) if masked else None
    student = [rgb.double().requires_grad_() for rgb in case.series("student_rgb_")]
    loss = options["kd_l1_lambda"] * rgb_loss(student, [t.detach() for t in targets], mask, mode)
    torch.testing.assert_close(loss, case.f64("kd_l1_loss"), rtol=1e-6, atol=1e-9)
    gradients = torch.autograd.grad(loss, student, allow_unused=True)
    for i, (rgb, gradient) in enumerate(zip(student, gradients)):
        expected = case.f64(f"dstudent_rgb_{i}")
        torch.testing.assert_close(
            torch.zeros_like(rgb) if gradient is None else gradient, expected, rtol=1e-6, atol=1e-10
        )
