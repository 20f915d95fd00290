"""A video job that is killed at random moments and started again gives what an unbroken one gives, frame for frame."""

import json
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from sr_deploy.upscale.video.record import find_work_folder

KILLS = 10
FRAMES = 240

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, write_gentle_network):
    """A network near bicubic, so that no guard objects, and ten seconds of moving waves with a tone."""
    folder = tmp_path_factory.mktemp("video")
    write_gentle_network(folder / "net.safetensors")
    y, x = np.mgrid[:90, :160]
    with av.open(str(folder / "in.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=24, options={"crf": "18"})
        video.width, video.height, video.pix_fmt = 160, 90, "yuv420p"
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for number in range(FRAMES):
            waves = [np.sin((x + 3 * number) / 9), np.cos((y - 2 * number) / 7), np.sin((x + y) / 11 + number / 5)]
            pixels = np.rint(128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(video.encode(frame))
            tone = np.sin(np.arange(2000 * number, 2000 * number + 2000) / 30).astype(np.float32)[None] / 4
            piece = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            piece.sample_rate, piece.pts, piece.time_base = 48000, 2000 * number, Fraction(1, 48000)
            container.mux(sound.encode(piece))
        container.mux([*video.encode(None), *sound.encode(None)])
    return folder


def start_job(prepared, target):
    words = ["upscale", str(prepared / "in.mp4"), str(target), "--model", str(prepared / "net.safetensors")]
    words += ["--backend", "torch", "--segment", "8", "--encoder-option", "preset=veryfast", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "sr_deploy", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def count_segments(target):
    return len(list(find_work_folder(target).glob("segment-*.json")))


def read_packets(path):
    with av.open(str(path)) as container:
        return [(packet.stream_index, packet.pts, bytes(packet)) for packet in container.demux() if packet.size]


@pytest.fixture(scope="module")
def unbroken(prepared):
    process = start_job(prepared, prepared / "unbroken.mp4")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["frames"] == FRAMES
    return read_packets(prepared / "unbroken.mp4")


def test_killed_at_random_moments(prepared, unbroken, tmp_path):
    target = tmp_path / "out.mp4"
    chance = random.Random(0)
    process = start_job(prepared, target)
    kills = 0
    while kills < KILLS:
        before = count_segments(target)
        while process.poll() is None and count_segments(target) <= before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.15))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        assert not target.exists()
        process = start_job(prepared, target)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    document = json.loads(stdout)
    assert kills == KILLS
    assert document["frames"] == FRAMES
    assert document["resumed"] >= KILLS * 8
    assert read_packets(target) == unbroken
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_jobs_say_so_and_go_on(prepared, unbroken, tmp_path, number):
    target = tmp_path / "out.mp4"
    process = start_job(prepared, target)
    while process.poll() is None and count_segments(target) < 3:
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    document = json.loads(stdout)
    assert (document["stopped"], document["target"]) == (True, None)
    assert "run the same command again to do the rest" in stderr
    assert not target.exists()
    stdout, stderr = start_job(prepared, target).communicate(timeout=300)
    assert json.loads(stdout)["resumed"] == document["frames"] >= 24
    assert read_packets(target) == unbroken
