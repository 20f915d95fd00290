from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sr_deploy.errors import ImageError
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.decoded_image import DecodedImage, write_decoded
from sr_deploy.train import originals
from sr_deploy.train.originals import ALPHA_NOTE, DARK_NOTE, GRAY_NOTE, raise_depth, read_original

COLOR = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (12, 10, 3), np.uint16)


@pytest.fixture(params=["pyvips", "pillow"])
def decoder(request, monkeypatch):
    monkeypatch.setattr(originals, "training_decoder", lambda: request.param)
    return request.param


def test_color_of_8_bit_is_as_it_is(tmp_path, decoder):
    write_image(tmp_path / "a.png", COLOR)
    found = read_original(tmp_path / "a.png", 3)
    assert np.array_equal(found.pixels, COLOR)
    assert (found.pixels.dtype, found.notes) == (np.uint8, ())


def test_16_bit_keep_their_depth_and_12_bit_data_is_named(tmp_path, decoder):
    write_decoded(tmp_path / "gray.png", DecodedImage(DEEP[..., :1]))
    write_decoded(tmp_path / "dark.png", DecodedImage(DEEP[..., :1] >> 4))
    gray, dark = (read_original(tmp_path / name, 1) for name in ("gray.png", "dark.png"))
    assert gray.pixels.dtype == np.uint16
    assert np.array_equal(gray.pixels, DEEP[..., :1])
    assert np.array_equal(dark.pixels, DEEP[..., :1] >> 4)
    assert (gray.notes, dark.notes) == ((), (DARK_NOTE,))


def test_colors_of_16_bit_need_pyvips(tmp_path, decoder):
    write_decoded(tmp_path / "deep.png", DecodedImage(DEEP))
    if decoder == "pillow":
        with pytest.raises(ImageError, match="has 16 bits per channel, of which Pillow keeps 8; run: pip install"):
            read_original(tmp_path / "deep.png", 3)
    else:
        assert np.array_equal(read_original(tmp_path / "deep.png", 3).pixels, DEEP)


def test_a_gray_network_gets_luma_and_a_color_network_gray_three_times(tmp_path, decoder):
    write_image(tmp_path / "color.png", COLOR)
    write_image(tmp_path / "gray.png", COLOR[..., :1])
    luma = read_original(tmp_path / "color.png", 1)
    assert np.array_equal(luma.pixels, np.rint(COLOR @ np.array([0.299, 0.587, 0.114]))[..., None])
    assert luma.notes == (GRAY_NOTE,)
    assert np.array_equal(read_original(tmp_path / "gray.png", 3).pixels, COLOR[..., :1].repeat(3, axis=2))
    assert read_original(tmp_path / "gray.png", 1).notes == ()


@pytest.mark.parametrize("palette", [False, True])
def test_what_is_fully_transparent_is_not_drawn_as_its_color(tmp_path, decoder, palette):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[...] = (255, 0, 255, 0)
    pixels[4:12, 4:12] = (20, 200, 30, 255)
    whole = Image.fromarray(pixels)
    (whole.quantize(4) if palette else whole).save(tmp_path / "a.png")
    found = read_original(tmp_path / "a.png", 3)
    assert np.array_equal(found.pixels, np.broadcast_to(np.uint8([20, 200, 30]), (16, 16, 3)))
    assert found.notes == (ALPHA_NOTE,)


def test_alpha_that_hides_nothing_is_not_worth_a_word_and_one_that_hides_all_is_refused(tmp_path, decoder):
    for name, alpha in (("opaque.png", 255), ("clear.png", 0)):
        Image.fromarray(np.dstack([COLOR, np.full((12, 10), alpha, np.uint8)])).save(tmp_path / name)
    opaque = read_original(tmp_path / "opaque.png", 3)
    assert (opaque.notes, np.array_equal(opaque.pixels, COLOR)) == ((), True)
    with pytest.raises(ImageError, match="is fully transparent"):
        read_original(tmp_path / "clear.png", 3)


def test_depths_of_a_batch_become_one():
    eight, sixteen = np.uint8([[[0, 7, 255]]]), np.uint16([[[1, 2, 65535]]])
    raised = raise_depth([eight, sixteen])
    assert [image.dtype for image in raised] == [np.uint16, np.uint16]
    assert raised[0].tolist() == [[[0, 1799, 65535]]]
    assert raise_depth([eight, eight])[0] is eight
