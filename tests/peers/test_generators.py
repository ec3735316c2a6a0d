"""Group 5: generators and discriminators of rosinality and of the paper's authors."""

from __future__ import annotations

import pytest
import torch

from cagc.checkpoints import Checkpoint, to_rosinality
from cagc.checkpoints.rosinality import discriminator_from_rosinality, generator_from_rosinality
from cagc.metrics.macs import total_parameters

from .vectors import Case, cases, iter_cases, load_torch

IMAGE = dict(rtol=1e-6, atol=1e-7)
IMAGE_F32 = dict(rtol=1e-5, atol=2e-5)


def weights(case: Case):
    return load_torch(case.options.get("weights") or case.index.with_suffix(".pt").name)


def generator(case: Case):
    state = weights(case)
    return generator_from_rosinality(state["g_ema"]).double()


def rosinality_layout(group: str, op: str) -> list[Case]:
    return [c for c in iter_cases(group, op) if {"g_ema", "d"} & set(weights(c))]


def noises(case: Case):
    """Explicit noise of the case, of the case that it shares them with, or the stored buffers."""
    if case.options.get("randomize_noise") is False:
        return "const"
    own = case.series("noise_")
    if not own:
        own = next(c.series("noise_") for c in iter_cases("5") if c.index == case.index and "noise_0" in c)
    return [n.double() for n in own]


def latents(case: Case, g):
    if "truncation_latent" in case:
        g.w_avg.copy_(case.f64("truncation_latent")[0])
    if "wplus" in case:
        return case.f64("wplus")
    if "w" in case and case.options.get("input_is_latent"):
        return case.f64("w")[:, None].expand(-1, g.num_ws, -1)
    mix = case.f64("z2") if "z2" in case else None
    return g.ws(case.f64("z"), mix, case.options.get("inject_index"), case.options.get("truncation", 1.0))


@cases("5", "forward", "Generator.forward")
def test_image(case: Case):
    g = generator(case)
    ws = latents(case, g)
    rgbs = g.synthesis(ws, noises(case), return_rgbs=True)
    torch.testing.assert_close(rgbs[-1], case.f64("img"), **IMAGE)
    for rgb, expected in zip(rgbs, case.series("rgb_")):
        torch.testing.assert_close(rgb, expected.double(), **IMAGE)
    for name in ("w", "latent"):
        if name in case and "z" in case:
            expected = case.f64(name)
            torch.testing.assert_close(ws if expected.ndim == 3 else ws[:, 0], expected, **IMAGE)
    if case.options.get("return_style_scalars"):
        styles = g.synthesis.styles(ws)
        scored = [s for name, s in styles.items() if "conv" in name] + [list(styles.values())[-1]]
        for style, expected in zip(scored, case.series("style_"), strict=True):
            torch.testing.assert_close(style, expected.double().flatten(1), **IMAGE)
    if "params" in case.options:
        assert total_parameters(g) == case.options["params"] == sum(p.numel() for p in g.parameters())


@cases("5", "forward", "Generator.forward")
def test_image_in_single_precision(case: Case):
    expected = case["img_f32"] if "img_f32" in case else case["img"].float()
    g = generator(case).float()
    noise = noises(case)
    noise = noise if isinstance(noise, str) else [n.float() for n in noise]
    image = g.synthesis(latents(case, generator(case)).float(), noise)
    torch.testing.assert_close(image, expected.float(), **IMAGE_F32)


@cases("5", "forward", having="dwplus")
def test_first_and_second_gradient_of_ws(case: Case):
    g = generator(case)
    ws = case.f64("wplus").requires_grad_()
    (first,) = torch.autograd.grad((g.synthesis(ws, noises(case)) * case.f64("cot")).sum(), ws, create_graph=True)
    torch.testing.assert_close(first, case.f64("dwplus"), rtol=1e-6, atol=1e-6)
    (second,) = torch.autograd.grad((first * case.f64("v")).sum(), ws)
    torch.testing.assert_close(second, case.f64("d2wplus"), rtol=1e-6, atol=1e-5)


@cases("5", "forward_backward")
def test_parameter_gradients(case: Case):
    g = generator(case)
    (g(case.f64("z"), noise=noises(case)) * case.f64("cot")).sum().backward()
    expected = load_torch(case.options["grads_file"])
    for p in g.parameters():
        p.data = p.grad
    ours = to_rosinality(Checkpoint(g_ema=g))["g_ema"]
    for name, grad in expected.items():
        scale = grad.abs().max().item() or 1.0
        torch.testing.assert_close(ours[name].float(), grad, rtol=2e-5, atol=2e-5 * scale, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize(
    "case",
    rosinality_layout("5", "Discriminator") or [pytest.param(None, marks=pytest.mark.skip(reason="no peer vectors"))],
    ids=lambda c: f"{c.index.stem}-{c.id}" if c else "absent",
)
def test_discriminator(case: Case):
    d = discriminator_from_rosinality(weights(case)["d"]).double()
    image = case.f64("img").requires_grad_()
    logits = d(image)
    torch.testing.assert_close(logits, case.f64("logits"), **IMAGE)
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    torch.testing.assert_close(gradient, case.f64("dimg"), rtol=1e-6, atol=1e-8)
    penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(penalty, case.f64("r1").reshape([]), **IMAGE)
    penalty.backward()
    for p in d.parameters():
        p.data = torch.zeros_like(p) if p.grad is None else p.grad
    ours = to_rosinality(Checkpoint(d=d))["d"]
    for name in case.options.get("r1_param_grads", []):
        expected = case.f64("d_r1_" + name.replace(".", "__"))
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())
