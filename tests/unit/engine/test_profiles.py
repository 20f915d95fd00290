from __future__ import annotations

import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bundle import parse_profile
from sr_deploy.engine.profiles import activation_gib, check_profiles
from sr_deploy.errors import ShapeError

RRDB = ArchSpec(architecture="rrdbnet", scale=4, features=64, blocks=23, growth=32)
RRDB_X2 = ArchSpec(architecture="rrdbnet", scale=2, features=64, blocks=23, growth=32)
COMPACT = ArchSpec(architecture="compact", scale=4, features=64, blocks=16)


def test_sides_must_suit_the_network():
    profile = parse_profile("odd=1x64x64,1x64x65,1x128x128")
    check_profiles([profile], COMPACT)
    with pytest.raises(ShapeError, match=r"'odd': opt is 1x64x65, .*rrdbnet x2.* multiples of 2"):
        check_profiles([profile], RRDB_X2)


def test_activations_are_counted_where_they_are_greatest():
    # 64 features at four times the side of 2 x 512 x 512, four bytes each
    profile = parse_profile("tile=1x32x32,1x256x256,2x512x512")
    assert activation_gib(profile, RRDB) == 64 * 16 * 2 * 512 * 512 * 4 / 2**30
    assert activation_gib(profile, COMPACT) == 64 * 2 * 512 * 512 * 4 / 2**30


def test_impossible_sizes_are_refused_before_the_builder_sees_them():
    profile = parse_profile("huge=1x64x64,1x64x64,4x8192x8192")
    with pytest.raises(ShapeError, match=r"'huge': .* max of 4x8192x8192 .*rrdbnet.* 1024 GiB"):
        check_profiles([profile], RRDB)


def test_profiles_are_needed_and_named_apart():
    with pytest.raises(ShapeError, match="an engine needs a profile"):
        check_profiles([], COMPACT)
    with pytest.raises(ShapeError, match="two profiles are named 'a'"):
        check_profiles([parse_profile("a=1x8x8,1x8x8,1x8x8")] * 2, COMPACT)
