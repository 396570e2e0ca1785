"""Open a source of frames by its name: a camera, a stream, a video, a picture, a folder, a glob or a list."""

from __future__ import annotations

import glob
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import cv2

from sdk.errors import SourceError
from sdk.host.urls import redact
from sdk.sources import camera, pictures, stream
from sdk.sources.content import Kind, kind_of, shown
from sdk.sources.lists import specs_of
from sdk.sources.live import PATIENCE_S, Live
from sdk.sources.opencv import quiet_opencv
from sdk.sources.roi import Roi
from sdk.sources.source import Frame, Source, in_background
from sdk.sources.state import Observer, SourceState
from sdk.sources.stream import Trust
from sdk.sources.video import pyav
from sdk.sources.video.capture import Connect, StreamCapture
from sdk.sources.video.file import Video, open_video
from sdk.sources.video.opencv import OpenCvVideo

log = logging.getLogger("sdk.sources")

Spec = int | str | os.PathLike[str]
OnUnreadable = Literal["raise", "skip"]


def open_source(
    spec: Spec,
    *,
    roi: Roi | Sequence[Roi] | None = None,
    on_unreadable: OnUnreadable = "raise",
    trust: Trust | None = None,
    patience_s: float = PATIENCE_S,
) -> Source:
    """Open a source of frames.

    Args:
        spec: a camera's number (``0`` or ``"0"``) or device (``/dev/video0``); a video or picture file, or a
            pipe, ``-`` for standard input; a folder of pictures, in natural order, or a glob (quote it from
            the shell); a text file or playlist, or ``@FILE``, with one of these a line; ``env:NAME``, the
            value of an environment variable; ``rtsp://…``, ``http://…`` and the like; ``csi://0``, a Jetson's
            CSI camera.
        roi: the part of every frame that is to be purified, or several, each to be purified by itself.
        on_unreadable: "raise" at a picture that can't be read, or "skip" it: its Frame says why.
        trust: whose certificates are believed, of https and rtsps; the system's authorities by default.
        patience_s: how long a lost stream may stay away before it is an error. With infinity it is tried for
            ever, also one that can't be opened at first, and a camera that was unplugged is as well.

    Raises:
        SourceError: there is no such thing, it can't be opened, it holds no frame, or it is a list of several
            sources, which ``open_sources`` opens.
    """
    opened = open_sources(spec, roi=roi, on_unreadable=on_unreadable, trust=trust, patience_s=patience_s)
    if len(opened) > 1:
        for source in opened:
            source.close()
        raise SourceError(
            f"{shown_spec(spec)}: a list of {len(opened)} sources",
            hint="open them by open_sources, and run them together",
        )
    return opened[0]


def open_sources(
    spec: Spec,
    *,
    roi: Roi | Sequence[Roi] | None = None,
    on_unreadable: OnUnreadable = "raise",
    trust: Trust | None = None,
    patience_s: float = PATIENCE_S,
) -> list[Source]:
    """Open all that ``spec`` stands for: the sources of a list, or the one that it names.

    A list of pictures is one source. Arguments and errors are those of ``open_source``; if one can't be
    opened, those before it are closed.
    """
    quiet_opencv()
    rois = (roi,) if isinstance(roi, Roi) else tuple(roi or ())
    with ExitStack() as stack:
        sources = []
        for one in _opened(spec, _How(on_unreadable, trust or Trust(), patience_s)):
            stack.callback(one.close)
            sources.append(WithRoi(one, rois) if rois else one)
        stack.pop_all()
    return sources


class WithRoi(Source):
    """Another source's frames, each with its regions of interest.

    Iterating it raises a UsageError at the first frame that a region does not lie in.
    """

    def __init__(self, source: Source, rois: Sequence[Roi]) -> None:
        self.name, self.live, self.total, self.fps = source.name, source.live, source.total, source.fps
        self.files = source.files
        self._source = source
        self._rois = tuple(rois)

    def __iter__(self) -> Iterator[Frame]:
        only = self._rois[0] if len(self._rois) == 1 else None
        for frame in self._source:
            if frame.error is not None:
                yield frame
                continue
            for roi in self._rois:
                roi.check(frame.image, frame.source)
            yield replace(frame, roi=only, rois=self._rois)

    def observe(self, observer: Observer | None) -> None:
        self._source.observe(observer)

    def report(self, state: SourceState, reason: str | None = None) -> None:
        self._source.report(state, reason)

    def close(self) -> None:
        self._source.close()


@dataclass(frozen=True, slots=True)
class _How:
    """The options of ``open_source`` that reach the readers."""

    on_unreadable: OnUnreadable
    trust: Trust
    patience_s: float


def _opened(spec: Spec, how: _How) -> Iterator[Source]:
    try:
        specs = specs_of(spec)
        listed: dict[int, Path] = {}  # a list's pictures are one source, at the first one's place
        if specs != [spec]:
            paths = [Path(str(one)) for one in specs]
            listed = {i: path for i, path in enumerate(paths) if pictures.is_picture(path)}
        first = min(listed, default=-1)
        for number, one in enumerate(specs):
            if number not in listed:
                yield _open(one, how)
            elif number == first:
                yield pictures.Pictures(shown_spec(spec), list(listed.values()), how.on_unreadable)
    except OSError as error:
        raise SourceError(f"{shown_spec(spec)}: can't be read: {error.strerror}") from None


def _open(spec: Spec, how: _How) -> Source:
    if isinstance(spec, int):
        return camera.open_camera(spec, how.patience_s)
    text = os.fspath(spec)
    if isinstance(spec, str):
        if text.isascii() and text.isdecimal():
            return camera.open_camera(text, how.patience_s)
        if text == "-" and not Path(text).exists():
            text = "/dev/stdin"
        if text[:7].lower() == "file://" or (text[:6].lower() == "file:/" and not Path(text).exists()):
            return _open_path(_path_of(text), how.on_unreadable)
        if "://" in text:
            return open_stream(text, how.trust, how.patience_s)
    device = os.path.realpath(text)  # udev's names, such as /dev/v4l/by-id/…, are links
    if device.startswith("/dev/video"):
        return camera.open_camera(device, how.patience_s)
    return _open_path(text, how.on_unreadable)


def _open_path(text: str, on_unreadable: OnUnreadable) -> Source:
    path = Path(text)
    if path.is_dir():
        return pictures.of_folder(path, on_unreadable)
    if path.exists():
        kind = kind_of(path)
        if kind is Kind.PICTURE:
            return pictures.Pictures(shown(text), [path], on_unreadable)
        if kind is Kind.TEXT:
            raise SourceError(
                f"{shown(text)}: a text file, neither a video nor a picture",
                hint="a list in a list isn't followed",
            )
        return open_video(path, kind)
    if glob.has_magic(text):
        return pictures.of_glob(text, on_unreadable)
    _refuse_broken_url(text)
    raise SourceError(
        f"{shown(text)}: no such file or folder",
        hint="give a camera number, video, picture, folder, glob, list or URL",
    )


def _refuse_broken_url(text: str) -> None:
    """Refuse an address that lacks a part, without what may be its password.

    Raises:
        SourceError: it is one.
    """
    scheme, colon, _ = text.partition(":")
    if colon and scheme.lower() in (*stream.STREAM_SCHEMES, "csi"):
        raise SourceError(
            f"{scheme}:***: not a URL", hint=f"write it as {scheme.lower()}:// and the rest, with two slashes"
        )
    user, at, _ = text.partition("@")
    if at and ":" in user:
        raise SourceError(
            "***@***: no such file or folder", hint="an address begins with its kind, as rtsp://"
        )


def _path_of(url: str) -> str:
    """The path of a ``file://`` URL.

    Raises:
        SourceError: it names another machine.
    """
    host, slash, path = url[5:].removeprefix("//").partition("/")
    if host not in ("", "localhost"):
        raise SourceError(f"file://{host}: a file of another machine", hint="write file:/// and its path")
    return unquote(slash + path)


def open_stream(url: str, trust: Trust, patience_s: float = PATIENCE_S) -> Source:
    """Open a network stream, a video on a web server (every frame, if its length is known), or ``csi://N``.

    Raises:
        SourceError: an unknown scheme, a certificate that can't be verified, or nothing that can be read
            there; only the URL's scheme and host are named.
    """
    if stream.require_known_scheme(url) == "csi":
        return camera.open_csi(url)
    name = redact(url)
    options = stream.ffmpeg_options(url, trust)
    connect = _by_opencv(url, options) if pyav.av is None else Connect(url, name, options, trust)
    capture = in_background(connect)
    if not capture.isOpened():
        distrusted = stream.verification_failed(url, trust)
        if distrusted is None and patience_s == math.inf:
            log.warning("%s: no video there yet; trying again", name)
            return Live(name, None, reconnect=connect, patience_s=patience_s)
        raise distrusted or SourceError(
            f"{name}: no video there",
            hint="check address, user and password, and that this machine reaches it",
        )
    is_file = url.lower().startswith("http")
    if isinstance(capture, StreamCapture):
        if is_file and capture.decoder.is_finite:
            return Video(name, capture.decoder, None, remote=True, opened=None)
    elif is_file and capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        is_estimate = url.partition("?")[0].lower().endswith((".mkv", ".webm"))
        return OpenCvVideo(name, capture, None, remote=True, is_estimate=is_estimate)
    return Live(name, capture, reconnect=connect, patience_s=patience_s)


def _by_opencv(url: str, options: dict[str, str]) -> Any:
    def connect() -> Any:
        stream.set_for_opencv(options)
        timeouts = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(stream.OPEN_TIMEOUT_S * 1e3),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(stream.READ_TIMEOUT_S * 1e3),
        ]  # fmt: skip
        return cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts)

    return connect


def shown_spec(spec: Spec) -> str:
    """A source's name for a message, without what may be a secret in it."""
    text = str(spec) if isinstance(spec, int) else os.fspath(spec)
    return redact(text) if "://" in text else shown(text)
