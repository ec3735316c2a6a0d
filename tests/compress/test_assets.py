"""The embedded generators: names, their images, and runs that record them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cagc import assets, load_generator
from cagc.data.files import open_files
from cagc.runs import Inputs


@pytest.mark.parametrize("name", assets.GENERATORS)
def test_an_embedded_generator_is_a_face_generator_with_images(name):
    generator, found = load_generator(name), assets.embedded(name)
    assert name.startswith(f"faces{generator.img_resolution}")
    assert generator.z_dim == 512 and len(open_files(found.images).names) >= 2000
    assert "research" in assets.licence(name)


def test_the_default_generator_stands_for_none():
    assert assets.embedded(None) == assets.GENERATORS[assets.DEFAULT]
    assert assets.licence(None) == assets.licence(assets.DEFAULT)
    assert assets.embedded("mine.pt") is None and assets.licence("mine.pt") == ""


def test_the_name_of_an_embedded_teacher_brings_its_images_and_is_recorded_as_a_name():
    inputs = Inputs(teacher=Path("faces64"), content="everything")
    loaded = Inputs.from_dict(inputs.to_dict()).load(need_data=False)
    assert inputs.to_dict()["teacher"] == "faces64"
    assert loaded.teacher.img_resolution == 64 and len(loaded.data) == 2700
