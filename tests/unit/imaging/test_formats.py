"""Entries of the table of formats hold together."""

import numpy as np
import pytest
import pyvips

from sr_deploy.imaging.codec import read_image, write_image
from sr_deploy.imaging.formats import FORMATS, WRITTEN, join


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_each_is_read_in_one_way_and_written_in_one_at_most(form):
    assert (form.loader is None) == (form.decoder is not None)
    assert (form.signature is None) == (form.decoder is None)
    assert form.saver is None or form.encoder is None
    assert form.decoder is None or callable(form.load_decoder())
    assert form.encoder is None or callable(form.load_encoder())
    assert form.saver is None or pyvips.type_find("VipsOperation", form.saver)
    assert form.loader is None or pyvips.type_from_name(f"VipsForeignLoad{form.loader}Buffer")
    assert not form.by_rows or (form.loader is not None and form.is_written)


def test_no_suffix_stands_twice():
    suffixes = [suffix for form in FORMATS for suffix in (*form.suffixes, *form.more_suffixes)]
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes)


@pytest.mark.parametrize("suffix", [suffix for form in WRITTEN for suffix in form.suffixes])
def test_what_is_written_by_any_suffix_is_read(tmp_path, suffix):
    ramp = np.add.outer(np.arange(24), np.arange(40)) * 2
    image = np.stack([ramp, ramp + 40, ramp + 90], axis=2).astype(np.uint8)
    write_image(tmp_path / f"a{suffix}", image)
    assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - image).max() < 12


def test_lists_in_sentences():
    assert join(["a"]) == "a"
    assert join(["a", "b"]) == "a or b"
    assert join(iter(["a", "b", "c"]), "and") == "a, b and c"
