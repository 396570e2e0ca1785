"""Network streams: what may be opened, under which certificates, and how an address is shown."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import SourceError
from sdk.host.urls import redact

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "srt")
SECURE_SCHEMES = ("rtsps", "rtmps", "https")
OPEN_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 10.0
_OPENCV_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # key;value|key;value
_USER_OPTIONS = os.environ.get(_OPENCV_OPTIONS, "")


# What holds its data itself. FFmpeg doesn't verify the hosts that a playlist's parts come from
_SELF_CONTAINED = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,mpjpeg,mjpeg,flv,live_flv,ogg,asf,h264,hevc,"
    "ivf,obu,gif,nut,mxf,wtv,yuv4mpegpipe,apng,mp3,aac,wav,flac,"
    "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif_pipe,svg_pipe,jpegxl_pipe"  # to refuse them by name
)


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose certificates are believed, of https and rtsps.

    Attributes:
        ca_file: PEM file of the authorities; None takes the system's.
        insecure: True to verify nothing: anyone in between sees the password and can supply the frames.
    """

    ca_file: str | os.PathLike[str] | None = None
    insecure: bool = False


def ffmpeg_options(url: str, trust: Trust) -> dict[str, str]:
    """FFmpeg's options for ``url``; what the user set for OpenCV in the environment holds here, too.

    Raises:
        SourceError: the file of authorities can't be read.
    """
    scheme = url.partition("://")[0].lower()
    options = {}
    if scheme.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    if scheme in SECURE_SCHEMES:
        options["tls_verify"] = "0" if trust.insecure else "1"
        if not trust.insecure:
            options["ca_file"] = _ca_file(trust)
    if scheme == "https":  # nor may it lead to where nothing is verified
        options["protocol_whitelist"] = "https,tls,tcp,crypto,data" + (",http" if trust.insecure else "")
        if not trust.insecure:
            options["format_whitelist"] = _SELF_CONTAINED
    fixed = {"tls_verify", "ca_file", "protocol_whitelist", "format_whitelist"}
    if scheme == "rtsps":  # over UDP the pictures would come beside the encrypted connection
        fixed.add("rtsp_transport")
    for pair in _USER_OPTIONS.split("|"):
        key, _, value = pair.partition(";")
        if key and key not in fixed:
            options[key] = value
    return options


def set_for_opencv(options: dict[str, str]) -> None:
    """Have OpenCV open its next capture under ``options``, which it reads from the environment."""
    if options:
        os.environ[_OPENCV_OPTIONS] = "|".join(f"{key};{value}" for key, value in options.items())
    else:
        os.environ.pop(_OPENCV_OPTIONS, None)


def require_known_scheme(url: str) -> str:
    """The URL's scheme in lower case.

    Raises:
        SourceError: FFmpeg isn't asked to open such a URL.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in (*STREAM_SCHEMES, "csi"):
        raise SourceError(
            f"{redact(url)}: expected a URL of {', '.join(STREAM_SCHEMES)} or csi, got {scheme}"
        )
    return scheme


def verification_failed(url: str, trust: Trust) -> SourceError | None:
    """Why a secure host isn't believed, by a handshake of our own; None if that isn't the reason."""
    import socket
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in SECURE_SCHEMES or trust.insecure or not host:
        return None
    context = ssl.create_default_context(cafile=_ca_file(trust))
    port = port or {"https": 443, "rtsps": 322, "rtmps": 443}[parts.scheme]
    try:
        with socket.create_connection((host, port), timeout=OPEN_TIMEOUT_S) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return SourceError(
            f"{redact(url)}: its certificate can't be verified: {error.verify_message}",
            hint="give the authority that signed it by --ca FILE; --insecure believes anyone",
        )
    except OSError:
        return None
    return None


def https_opener(trust: Trust) -> Callable[[str, int, dict[str, str]], Any]:
    """What opens an https URL as a file object for PyAV, its host verified; it opens no other kind of URL."""
    import base64
    import urllib.request
    from urllib.parse import unquote, urlsplit, urlunsplit

    if trust.insecure:
        context = ssl._create_unverified_context()
        plain: list[urllib.request.BaseHandler] = [urllib.request.HTTPHandler()]
    else:
        context, plain = ssl.create_default_context(cafile=_ca_file(trust)), []
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        *plain,
    ):
        opener.add_handler(handler)

    def open_url(url: str, flags: int, options: dict[str, str]) -> Any:
        parts = urlsplit(url)
        request = urllib.request.Request(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            request.add_unredirected_header(
                "Authorization", f"Basic {base64.b64encode(user.encode()).decode()}"
            )
        response = opener.open(request, timeout=READ_TIMEOUT_S)
        if response is None:  # no handler: not https
            raise OSError("only https is read from a secure stream")
        return response

    return open_url


def _ca_file(trust: Trust) -> str:
    if trust.ca_file is not None:
        path = Path(trust.ca_file)
        try:
            ssl.create_default_context(cafile=str(path))
        except (OSError, ssl.SSLError):
            raise SourceError(f"{path}: no PEM file of certificates", hint="give --ca such a file") from None
        return str(path.absolute())
    paths = ssl.get_default_verify_paths()
    for known in (paths.cafile, *_SYSTEM_BUNDLES):
        if known is not None and Path(known).is_file():
            return known
    raise SourceError(
        "this machine has no file of certificate authorities",
        hint="install ca-certificates, or give one by --ca FILE",
    )


_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS
)
