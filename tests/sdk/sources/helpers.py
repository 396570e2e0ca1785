"""Real media as people have them, made by PyAV: H.264, edit lists, odd rates, damage."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from sdk.errors import EdgePurifyError
from sdk.sources import Frame, Source

SIZE = (96, 64)  # width and height


def pictures(n_frames: int) -> Iterator[av.VideoFrame]:
    rng = np.random.default_rng(0)
    for _ in range(n_frames):
        yield av.VideoFrame.from_ndarray(
            rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8), format="bgr24"
        )


def write_h264(path: Path, n_frames: int = 50, *, fps: Fraction = Fraction(25), gop: int = 250) -> Path:
    """A video of noise with one key frame every ``gop``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "g": str(gop)})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for picture in pictures(n_frames):
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def copy(source: Path, target: Path, *, without_s: float = 0.0, drop: tuple[int, ...] = ()) -> Path:
    """The packets of ``source`` in another container, as ``ffmpeg -ss S -c copy`` does it.

    In an MP4, an edit list hides the first ``without_s`` seconds, whose frames are still in the file.
    ``drop`` are the numbers of packets that are left out.
    """
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        assert stream.time_base is not None
        offset = int(without_s / stream.time_base)
        for number, packet in enumerate(reading.demux(stream)):
            if packet.dts is None or packet.pts is None or number in drop:
                continue
            packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
            packet.stream = copied
            writing.mux(packet)
    return target


def write_song(path: Path, cover: bytes | None) -> Path:
    """A second of sound, with a cover picture (JPEG) or without."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        picture = None
        if cover is not None:
            picture = container.add_stream("mjpeg", rate=25)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        if picture is not None:
            container.start_encoding()
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts = picture, 0, 0
            container.mux(packet)
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def read_all(source: Source) -> tuple[list[Frame], str | None]:
    """A source's frames and the error that they end with, if they do."""
    frames: list[Frame] = []
    try:
        with source:
            frames.extend(source)
    except EdgePurifyError as error:
        return frames, str(error)
    return frames, None
