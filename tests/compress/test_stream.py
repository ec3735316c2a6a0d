"""The image stream of training: an order that can be replayed from any sample."""

import warnings

import pytest
import torch

from cagc.common.errors import CagcError
from cagc.data.dataset import ImageDataset
from cagc.data.stream import ImageStream

from .image_forms import write_set


def take(stream, count):
    return [next(stream) for _ in range(count)]


def test_stream_repeats_with_its_seed_and_changes_with_another(tmp_path):
    data = ImageDataset(write_set(tmp_path, 7), 8)
    first, again, other = (take(ImageStream(data, 3, seed), 6) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not all(torch.equal(a, b) for a, b in zip(first, other))


def test_every_epoch_shows_every_image_once_in_another_order(tmp_path):
    data = ImageDataset(write_set(tmp_path, 6), 8)
    images = torch.cat(take(ImageStream(data, 2, seed=1, flip=False), 6))
    key = {data[i].numpy().tobytes(): i for i in range(6)}
    order = [key[image.numpy().tobytes()] for image in images]
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))
    assert order[:6] != order[6:]


def test_about_half_of_the_images_are_mirrored(tmp_path):
    data = ImageDataset(write_set(tmp_path, 10), 8)
    plain = torch.cat(take(ImageStream(data, 10, seed=3, flip=False), 40))
    flipped = torch.cat(take(ImageStream(data, 10, seed=3), 40))
    same = (plain == flipped).flatten(1).all(1)
    mirrored = (plain.flip(3) == flipped).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 160 < mirrored.sum() < 240


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_position_survives_a_restart_exactly(tmp_path, stop):
    data = ImageDataset(write_set(tmp_path, 7), 8)
    stream = ImageStream(data, 3, seed=2)
    take(stream, stop)
    state = stream.state_dict()
    ahead = take(stream, 5)
    restored = ImageStream(ImageDataset(tmp_path, 8), 3, seed=2)
    restored.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(ahead, take(restored, 5)))


def test_position_of_another_run_is_refused(tmp_path):
    data = ImageDataset(write_set(tmp_path, 4), 8)
    state = ImageStream(data, 2, seed=1).state_dict()
    for stream, key in ((ImageStream(data, 2, seed=2), "seed"), (ImageStream(data, 2, seed=1, flip=False), "flip")):
        with pytest.raises(CagcError, match=key):
            stream.load_state_dict(state)
    with pytest.raises(CagcError, match="images"):
        ImageStream(data, 2, seed=1).load_state_dict(state | {"images": 5})
    with pytest.raises(CagcError, match="position"):
        ImageStream(data, 2, seed=1).load_state_dict({"seed": 1})


def test_a_set_smaller_than_the_batch_is_refused(tmp_path):
    data = ImageDataset(write_set(tmp_path, 3), 8)
    with pytest.raises(CagcError, match="3 usable images are fewer than the batch of 4"):
        ImageStream(data, 4)
    with pytest.raises(ValueError, match="batch"):
        ImageStream(data, 0)


def test_good_sets_give_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(ImageStream(ImageDataset(write_set(tmp_path, 2), 8), 2))


def test_images_decoded_ahead_come_in_the_same_order(tmp_path):
    write_set(tmp_path, 7)
    kept, late = ImageDataset(tmp_path, 8), ImageDataset(tmp_path, 8, cache_bytes=0)
    assert kept.is_cached and not late.is_cached
    expected = take(ImageStream(kept, 3, seed=2), 8)
    stream = ImageStream(late, 3, seed=2)
    for batch in expected[:3]:
        assert torch.equal(next(stream), batch)
    restored = ImageStream(late, 3, seed=2)
    next(restored)
    restored.load_state_dict(stream.state_dict())
    for batch in expected[3:]:
        assert torch.equal(next(restored), batch)
