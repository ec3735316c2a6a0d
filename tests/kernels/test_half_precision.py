"""Half precision with styles and weights of any size: finite, and close to float64; autocast around whole networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cagc.distill.regularizers import path_length_penalty, path_lengths, r1_penalty
from cagc.models import Discriminator, Generator
from cagc.models.discriminator import DiscriminatorConfig
from cagc.models.stylegan2_config import GeneratorConfig, layer_names
from cagc_kernels import bias_act, modulated_conv2d, setup_filter, styled_conv2d
from cagc_kernels.tolerances import assert_close

HALF = (torch.float16, torch.bfloat16)
RESOLUTION = 256


def operands(channels=512, size=6, weight_scale=1e2, style_scale=1e3):
    x, weight = torch.randn(2, channels, size, size), torch.randn(8, channels, 3, 3) * weight_scale
    return x, weight, torch.randn(2, channels) * style_scale, torch.randn(8)


@pytest.mark.parametrize("wide", (True, False), ids=("float32-weights", "half-weights"))
@pytest.mark.parametrize("up", (1, 2))
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_large_styles_and_weights(dtype, up, wide):
    x, weight, styles, bias = operands()
    x[0] *= 200
    noise = torch.randn(2, 1, 6 * up, 6 * up)
    rest = [t if wide else t.to(dtype) for t in (weight, styles, bias, noise)]
    f = setup_filter([1, 3, 3, 1])
    got = styled_conv2d(x.to(dtype), *rest, up, f, clamp=256.0)
    want = styled_conv2d(x.to(dtype).double(), *(t.double() for t in rest), up, f, clamp=256.0, backend="reference")
    assert got.dtype == dtype and got.isfinite().all()
    assert_close(got, want, dtype, factor=4)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_large_styles_without_demodulation(dtype):
    """toRGB: no sum overflows although styles times activations would."""
    x, _, styles, _ = operands()
    weight = torch.randn(3, 512, 1, 1)
    x, styles = x.to(dtype) * 256, styles / 512
    got = modulated_conv2d(x, weight, styles, demodulate=False)
    assert_close(got, modulated_conv2d(x.double(), weight.double(), styles.double(), demodulate=False), dtype, factor=2)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_gradients_of_large_operands(dtype):
    x, weight, styles, _ = operands(channels=64)
    g = torch.randn(2, 8, 6, 6)

    def gradients(x, *rest):
        leaves = [t.detach().requires_grad_() for t in (x, *rest)]
        y = modulated_conv2d(*leaves, padding=1)
        return torch.autograd.grad(y, leaves, g.to(y.dtype))

    for got, want in zip(
        gradients(x.to(dtype), weight, styles),
        gradients(x.to(dtype).double(), weight.double(), styles.double()),
        strict=True,
    ):
        assert got.isfinite().all()
        error = (got.double() - want).norm() / want.norm()
        assert error <= (0.01 if dtype == torch.float16 else 0.06), error


def networks(clamp: float | None = 256.0):
    torch.manual_seed(0)
    widths = {name: 8 if int(name[1:].split(".")[0]) <= 16 else 4 for name in layer_names(RESOLUTION)}
    g = Generator(GeneratorConfig(RESOLUTION, widths, style_dim=16, mapping_layers=2, conv_clamp=clamp))
    widths = {2**i: 8 if i <= 4 else 4 for i in range(2, RESOLUTION.bit_length())}
    return g, Discriminator(DiscriminatorConfig(RESOLUTION, widths, conv_clamp=clamp))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_training_losses_under_autocast(dtype):
    """Images, logits, R1 and path length at 256 px: close to float32, with finite second-order gradients."""
    g, d = networks()
    with torch.no_grad():
        for name, p in g.named_parameters():
            if name.endswith(("conv0.affine.weight", "conv1.affine.weight")):
                p *= 300
    z, noise = torch.randn(2, 16), torch.randn(2, 3, RESOLUTION, RESOLUTION)
    results = {}
    for kind in (torch.float32, dtype):
        g.zero_grad(), d.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=kind != torch.float32):
            ws = g.ws(z)
            image = g.synthesis(ws, "const")
            lengths = path_lengths(image, ws, noise)
            path, _ = path_length_penalty(lengths, 0.0, 0.01)
            real = image.detach().requires_grad_()
            logits = d(real)
            r1 = r1_penalty(logits, real)
        (path + r1).backward()
        assert image.dtype == logits.dtype == torch.float32
        for p in (*g.parameters(), *d.parameters()):
            assert p.grad is None or p.grad.isfinite().all()
        results[kind] = (image, logits, lengths, r1)
    for got, want in zip(results[dtype], results[torch.float32], strict=True):
        assert (got - want).norm() <= (0.02 if dtype == torch.float16 else 0.15) * want.norm()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_weights(dtype):
    g, _ = networks()
    z = torch.randn(2, 16)
    with torch.no_grad():
        want = g(z, noise="const")
        got = g.to(dtype)(z.to(dtype), noise="const")
    assert got.dtype == dtype and (got - want).norm() <= (0.02 if dtype == torch.float16 else 0.15) * want.norm()


def with_conv_clamp(network, conv_clamp):
    copy = type(network)(replace(network.config, conv_clamp=conv_clamp))
    copy.load_state_dict(network.state_dict())
    return copy.eval()


def test_conv_clamp():
    g, d = networks(clamp=None)
    assert "conv_clamp" not in g.config.to_dict() and "conv_clamp" not in d.config.to_dict()
    with torch.no_grad():
        z = torch.randn(1, 16)
        features = {}
        bounded = with_conv_clamp(g, 0.5)
        image = bounded.synthesis(bounded.ws(z), "none", features=features)
        assert all(f.abs().max() <= 0.5 for name, f in features.items() if name != "b4.const")
        torch.testing.assert_close(with_conv_clamp(bounded, None)(z, noise="none"), g(z, noise="none"))
        assert bounded.config.to_dict()["conv_clamp"] == 0.5
        assert torch.equal(with_conv_clamp(d, 1e6)(image), d(image))
    with pytest.raises(ValueError, match="conv_clamp: got 0, expected a number above 0, or None"):
        with_conv_clamp(g, 0)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_bias_act_under_autocast(dtype):
    x, b = torch.randn(2, 3, 4, 4, dtype=dtype), torch.randn(3)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(bias_act(x, b), bias_act(x, b.to(dtype)))
    with pytest.raises(TypeError, match="b: got dtype torch.float32"):
        bias_act(x, b)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_every_value_rounds_as_in_pytorch(dtype):
    """Subnormal numbers, infinities and NaN among them; a gain below 1 leaves bits to round."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    got = bias_act(x, gain=0.37, backend="native")
    torch.testing.assert_close(got, (x.float() * 0.37).to(dtype), rtol=0, atol=0, equal_nan=True)
