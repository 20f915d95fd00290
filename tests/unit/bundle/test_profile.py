import pytest

from sr_deploy.bundle import Profile, Shape, parse_profile, parse_shape
from sr_deploy.errors import ShapeError


def test_shapes_are_batch_height_width():
    assert parse_shape("2x720x1280") == Shape(n=2, h=720, w=1280)
    assert str(Shape(1, 2, 3)) == "1x2x3"


@pytest.mark.parametrize("text", ["", "720x1280", "1x0x4", "1x-2x3", "1x2x3x4", "axbxc", "1x2x65537", "1x2.5x3"])
def test_what_is_no_shape(text):
    with pytest.raises(ShapeError, match=r"is not a shape; give NxHxW in integers from 1 to 65536"):
        parse_shape(text)


def test_profile_reads_back_what_it_prints():
    profile = parse_profile("tile=1x64x64,1x256x256,4x512x512")
    assert profile == Profile(name="tile", min=Shape(1, 64, 64), opt=Shape(1, 256, 256), max=Shape(4, 512, 512))
    assert parse_profile(str(profile)) == profile
    assert Profile.model_validate_json(profile.model_dump_json()) == profile


def test_profile_holds_its_ends_and_nothing_beyond():
    profile = parse_profile("p=1x8x8,1x16x16,2x32x64")
    assert profile.contains(Shape(1, 8, 8))
    assert profile.contains(Shape(2, 32, 64))
    assert not profile.contains(Shape(3, 32, 64))
    assert not profile.contains(Shape(1, 7, 8))
    assert not profile.contains(Shape(1, 8, 65))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tile", "is not a profile; give NAME=MIN,OPT,MAX"),
        ("tile=1x2x3,1x2x3", "is not a profile"),
        ("a b=1x2x3,1x2x3,1x2x3", "is not a profile"),
        (
            "t=1x64x64,1x32x64,1x128x128",
            r"profile 't' needs 1 <= min <= opt <= max <= 65536 on each axis; H is 64, 32, 128",
        ),
        ("t=4x64x64,4x64x64,1x64x64", r"N is 4, 4, 1"),
    ],
)
def test_what_is_no_profile(text, message):
    with pytest.raises(ShapeError, match=message):
        parse_profile(text)
