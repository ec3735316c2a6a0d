"""Group 6e: multiply-accumulates and parameters by layer, to the unit."""

from __future__ import annotations

import pytest

from cagc.metrics.macs import count_macs, total_macs, total_parameters
from cagc.models.stylegan2_config import GeneratorConfig, layer_names

from .vectors import FOLDER, documents

ENTRIES = [entry for document in documents("6e") for entry in document["entries"]]
if not ENTRIES:
    ENTRIES = [pytest.param(None, marks=pytest.mark.skip(reason=f"no peer vectors of group 6e in {FOLDER}"))]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e["name"] if e else "absent")
def test_macs_and_parameters(entry):
    channels = dict(zip(layer_names(entry["size"]), entry["net_shape"], strict=True))
    config = GeneratorConfig(entry["size"], channels, entry["style_dim"], entry["n_mlp"])
    macs = count_macs(config)
    convs = [n for name, n in macs.items() if name.endswith(("conv0", "conv1"))]
    assert convs == entry["styled_conv_layers"]
    assert [n for name, n in macs.items() if name.endswith("to_rgb")] == entry["to_rgb_layers"]
    assert (
        sum(n for name, n in macs.items() if name.endswith("conv1.affine") or name.endswith("conv0.affine"))
        + sum(n for name, n in macs.items() if name.endswith("to_rgb.affine"))
        == entry["style_modulation"]
    )
    assert macs["mapping"] == entry["mapping"]
    assert total_macs(config) == entry["total"]
    assert total_parameters(config) == entry["params"]


def test_the_published_constants():
    constants = [document["constants"] for document in documents("6e") if "constants" in document]
    if not constants:
        pytest.skip(f"no peer vectors of group 6e in {FOLDER}")
    for name, expected in constants[0].items():
        resolution = int("".join(filter(str.isdigit, name)))
        assert total_macs(GeneratorConfig.uniform(resolution)) == expected
