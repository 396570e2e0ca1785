"""Formats that FFmpeg finds: which of them are videos, and how others are refused by name.

FFmpeg opens texts, sounds, single pictures and what merely looks like one of its hundreds of formats: a raw
photo is an old game's film to it. So a container is served if it is one that people keep video in.
"""

from __future__ import annotations

from pathlib import Path

from sdk.errors import SourceError
from sdk.sources.content import HEIF_BRANDS
from sdk.sources.pictures import PICTURE_SUFFIXES

SERVED = frozenset(
    [
        *(
            "mov",
            "mp4",
            "m4a",
            "3gp",
            "3g2",
            "mj2",
            "matroska",
            "webm",
            "avi",
            "flv",
            "live_flv",
            "kux",
            "gif",
        ),
        *("mpegts", "mpegtsraw", "mpeg", "mpegvideo", "mpjpeg", "mjpeg", "mjpeg_2000", "smjpeg", "ingenient"),
        *("asf", "asf_o", "wtv", "ogg", "rm", "mxf", "gxf", "nut", "nuv", "ivr", "swf", "dv", "dhav", "lxf"),
        *("pva", "ty", "vivo", "amv", "avr", "mtv", "nsv", "flic", "bink", "smk", "roq", "4xm", "film_cpk"),
        *("h261", "h263", "h264", "hevc", "vvc", "m4v", "vc1", "vc1test", "cavsvideo", "avs2", "avs3", "av1"),
        *("obu", "ivf", "evc", "dirac", "dnxhd", "apv", "mlv", "r3d", "ser", "yuv4mpegpipe"),
        *("hls", "dash", "rtsp", "rtp", "sdp", "rtmp", "concat"),
    ]
)
_PICTURES = ("image2", "ico", "fits", "tiff", "xpm", "alias_pix", "brender_pix", "pictor", "apng", "webp")


def require_video(name: str, kind: str, title: str) -> None:
    """Check that a container holds video.

    Args:
        name: what messages call it.
        kind: FFmpeg's name of the format, or several with commas.
        title: FFmpeg's long name of it.

    Raises:
        SourceError: it is another kind, by name.
    """
    if SERVED.intersection(kind.split(",")):
        return
    if kind == "image2" and Path(name).suffix.lower() in PICTURE_SUFFIXES:  # by its suffix alone
        raise SourceError(f"{name}: not a picture, or a damaged one", hint="get it again or take it out")
    if kind.endswith("_pipe") or kind in _PICTURES:
        raise single_picture(name, kind.removesuffix("_pipe"))
    raise SourceError(
        f"{name}: neither a video nor a picture: FFmpeg takes it for {title or kind}",
        hint="give a video, or a JPEG or PNG picture",
    )


def has_variants(kind: str) -> bool:
    """Whether a container's videos are one, in several sizes."""
    return kind in ("hls", "dash")


def require_not_heif(name: str, brand: str) -> None:
    """Check the ``major_brand`` of an MP4: FFmpeg opens one tile of a HEIF picture as a video.

    Raises:
        SourceError: it is such a picture.
    """
    if brand.strip().encode() in HEIF_BRANDS:
        raise SourceError(
            f"{name}: a HEIF picture (HEIC, AVIF), which isn't served", hint="convert it to JPEG or PNG"
        )


def single_picture(name: str, kind: str) -> SourceError:
    """The error for one picture where a video is expected."""
    kind = "" if kind == "image2" else f" ({kind})"
    return SourceError(
        f"{name}: a single picture{kind}, not a video", hint="save it as a JPEG or PNG file and give that"
    )
