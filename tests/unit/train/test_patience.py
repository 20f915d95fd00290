from __future__ import annotations

import errno
import shutil
import threading
from concurrent.futures import CancelledError

import pytest

from sr_deploy.errors import ImageError, InputError
from sr_deploy.imaging.codec import read_training_image
from sr_deploy.train import patience, training_images
from sr_deploy.train.patience import PatientReader
from tests.unit.train.test_photographs import open_folder


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(patience, "_WAITS", (0.05,) * 100)


def test_a_folder_that_is_gone_for_a_while_is_waited_for_with_two_lines(picture_folder, said):
    photographs = open_folder(picture_folder)
    away = picture_folder.with_name("away")
    picture_folder.rename(away)
    back = threading.Timer(0.4, lambda: away.rename(picture_folder))
    back.start()
    assert photographs.pair(0).hr.shape == (48, 68, 3)
    back.join()
    assert len(said) == 2
    assert said[0] == f"cannot read {picture_folder / 'a.png'} (its folder is gone); trying again for 5 s"
    assert f"{picture_folder / 'a.png'} can be read again after " in said[1]


def test_errors_of_a_network_are_tried_again_and_pass(picture_folder, monkeypatch, said):
    failures = [OSError(errno.ESTALE, "stale"), ImageError("cannot read")]
    failures[1].__cause__ = OSError(errno.EIO, "input/output")
    plain = training_images.read_original
    monkeypatch.setattr(
        training_images, "read_original", lambda path, channels: fail(failures) or plain(path, channels)
    )
    assert open_folder(picture_folder).pair(0) is not None
    assert failures == []
    assert len(said) == 2


def fail(failures):
    if failures:
        raise failures.pop()


def test_a_folder_that_stays_away_ends_it_and_a_picture_that_was_deleted_does_not(picture_folder, monkeypatch, said):
    monkeypatch.setattr(patience, "_WAITS", (0.01,) * 3)
    photographs = open_folder(picture_folder)
    shutil.rmtree(picture_folder / "deep")
    assert photographs.pair(2) is None
    assert said == [f"skipped: {picture_folder / 'deep' / 'er' / 'b.png'} does not exist; give a picture"]
    shutil.rmtree(picture_folder)
    with pytest.raises(
        InputError, match=r"pictures has been gone for .* bring it back, then: sr-deploy train --resume"
    ):
        photographs.pair(0)


def test_waiting_ends_when_it_is_abandoned(picture_folder, monkeypatch):
    monkeypatch.setattr(patience, "_WAITS", (60,))
    paths = open_folder(picture_folder).paths
    shutil.rmtree(picture_folder)
    abandoned = threading.Event()
    threading.Timer(0.2, abandoned.set).start()
    with pytest.raises(CancelledError):
        PatientReader(paths).read(paths[0], read_training_image, abandoned)


def test_a_folder_that_is_gone_while_headers_are_read_is_waited_for(picture_folder, said):
    wanted = open_folder(picture_folder)
    wanted.examine(threads=1)
    photographs = open_folder(picture_folder)
    away = picture_folder.with_name("away")
    picture_folder.rename(away)
    back = threading.Timer(0.5, lambda: away.rename(picture_folder))
    back.start()
    photographs.examine(threads=2)
    back.join()
    assert photographs.headers == wanted.headers
    assert photographs.fingerprint() == wanted.fingerprint()
    assert len(said) == 2
