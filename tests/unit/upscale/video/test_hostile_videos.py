"""What only looks like a video: lists of other files and addresses, and streams that promise more than there is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace

import pytest

from sr_deploy.errors import VideoError
from sr_deploy.upscale.video.raw import read_format
from sr_deploy.upscale.video.source import find_video_stream, read_video_info


@pytest.fixture
def visits() -> Iterator[tuple[int, list[bytes]]]:
    """A port of this machine, and what was said to it."""
    said: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    said.append(connection.recv(100))

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], said
        over.set()
        thread.join()


LISTS = {
    "concat": "ffconcat version 1.0\nfile clip.mkv\n",
    "concat of an address": "ffconcat version 1.0\nfile http://127.0.0.1:{port}/clip.mkv\n",
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.mkv\n#EXT-X-ENDLIST\n",
    "playlist of an address": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/1.ts\n",
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
}


@pytest.mark.parametrize("suffix", [".mkv", ".m3u8", ".ts"])
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_files_and_addresses_are_no_videos(tmp_path, clip, visits, name, suffix):
    """FFmpeg would open what they name, over the network, too."""
    port, said = visits
    clip("clip.mkv")
    path = tmp_path / f"list{suffix}"
    path.write_text(LISTS[name].format(port=port))
    with pytest.raises(VideoError, match="not a video that can be read"):
        read_video_info(path)
    assert said == []


def test_frames_that_no_picture_is_as_large_as_are_refused_undecoded():
    context = SimpleNamespace(width=16384, height=16384)
    stream = SimpleNamespace(disposition=0, codec_context=context, time_base=Fraction(1, 25))
    container = SimpleNamespace(streams=SimpleNamespace(best=lambda _kind: stream))
    with pytest.raises(VideoError, match="has frames of 16384x16384; 200 megapixels are taken at most"):
        find_video_stream(container, "x.mkv")


@pytest.mark.parametrize("size", ["W0 H9", "W9", "W99999 H99999", "W" + "9" * 3000 + " H9", "W-9 H-9", "W٣ H٣"])
def test_heads_of_streams_say_a_size_that_is_taken(size):
    import io

    with pytest.raises(VideoError, match="does not say its size, or one that is not taken") as caught:
        read_format(io.BytesIO(f"YUV4MPEG2 {size} F25:1\n".encode()), "y4m", None)
    assert len(str(caught.value)) < 500
