"""Certificates of https and rtsps: verified by default, on a real server."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sdk.errors import SourceError
from sdk.sources import Trust, open_source
from tests.sdk.conftest import DEADLINE_S, write_video

x509 = pytest.importorskip("cryptography.x509", reason="making certificates needs cryptography")

N_FRAMES = 12


def write_certificate(folder: Path, name: str, hosts: tuple[str, ...]) -> tuple[Path, Path]:
    """A self-signed certificate for ``hosts`` and its key, as PEM files."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [
        x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        for host in hosts
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(pem))
    key_file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


class Server:
    """Files over TLS; remembers what it was asked, with which password."""

    def __init__(self, files: dict[str, bytes], certificate: Path, key: Path) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(f"{self.path} {self.headers.get('Authorization')}")
                data = files.get(self.path[1:], b"")
                self.send_response(200 if data else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *arguments: object) -> None:
                pass  # a client that doesn't believe us goes in the middle of the handshake

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"https://admin:hunter2@localhost:{self._server.server_port}/{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, tuple[Path, Path]]:
    return {
        "right": write_certificate(tmp_path, "right", ("localhost", "127.0.0.1")),
        "wrong-name": write_certificate(tmp_path, "wrong-name", ("camera.example",)),
    }


@pytest.fixture
def serve(certificates: dict[str, tuple[Path, Path]]) -> Iterator[Callable[[str, dict[str, bytes]], Server]]:
    servers: list[Server] = []

    def start(certificate: str, files: dict[str, bytes]) -> Server:
        servers.append(Server(files, *certificates[certificate]))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


Serve = Callable[[str, dict[str, bytes]], Server]
Certificates = dict[str, tuple[Path, Path]]


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    return write_video(tmp_path / "clip.avi", N_FRAMES).read_bytes()


@pytest.mark.usefixtures("reader")
def test_self_signed_host_gets_neither_trust_nor_password(serve: Serve, clip: bytes) -> None:
    server = serve("right", {"clip.avi": clip})
    with pytest.raises(
        SourceError, match=r"https://localhost: its certificate can't be verified: self.signed"
    ):
        open_source(server.url("clip.avi"))
    assert server.asked == []


@pytest.mark.usefixtures("reader")
def test_host_of_another_name_gets_neither_trust_nor_password(
    serve: Serve, clip: bytes, certificates: Certificates
) -> None:
    server = serve("wrong-name", {"clip.avi": clip})
    with pytest.raises(
        SourceError, match=r"certificate can't be verified: .*; give the authority .* by --ca"
    ):
        open_source(server.url("clip.avi"), trust=Trust(ca_file=certificates["wrong-name"][0]))
    assert server.asked == []


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("how", ["ca", "insecure"])
def test_host_is_believed_by_its_authority_or_by_name(
    how: str, serve: Serve, clip: bytes, certificates: Certificates
) -> None:
    server = serve("right" if how == "ca" else "wrong-name", {"clip.avi": clip})
    trust = Trust(ca_file=certificates["right"][0]) if how == "ca" else Trust(insecure=True)
    with open_source(server.url("clip.avi"), trust=trust) as source:
        assert len(list(source)) == N_FRAMES
    assert server.asked


def playlist(clip_url: str) -> bytes:
    return (
        f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{clip_url}\n#EXT-X-ENDLIST\n"
    ).encode()


def segment(tmp_path: Path) -> bytes:
    from tests.sdk.sources.helpers import write_h264

    return write_h264(tmp_path / "part.ts", N_FRAMES).read_bytes()


@pytest.mark.parametrize("parts_from", ["right", "wrong-name"])
def test_parts_of_a_playlist_are_verified_as_well(
    parts_from: str, serve: Serve, tmp_path: Path, certificates: Certificates
) -> None:
    parts = serve(parts_from, {"part.ts": segment(tmp_path)})
    main = serve("right", {"live.m3u8": playlist(parts.url("part.ts"))})
    trust = Trust(ca_file=certificates["right"][0])
    if parts_from == "right":
        with open_source(main.url("live.m3u8"), trust=trust) as source:
            assert len(list(source)) == N_FRAMES
    else:
        with pytest.raises(SourceError, match=r"https://localhost: no video there"):
            open_source(main.url("live.m3u8"), trust=trust)
        assert parts.asked == []


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("believed", [False, True])
def test_rtsps_speaks_to_a_verified_host_alone(believed: bool, certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates["right"])
    listening = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []
    stop = threading.Event()

    def answer() -> None:
        while not stop.is_set():
            with suppress(OSError):
                plain, _ = listening.accept()
                plain.settimeout(DEADLINE_S)
                with context.wrap_socket(plain, server_side=True) as secure:
                    asked.append(secure.recv(4096))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    url = f"rtsps://admin:hunter2@localhost:{listening.getsockname()[1]}/1"
    trust = Trust(ca_file=certificates["right"][0]) if believed else Trust()
    expected = "no video there" if believed else "certificate can't be verified"
    try:
        with pytest.raises(SourceError, match=rf"rtsps://localhost: .*{expected}"):
            open_source(url, trust=trust)
    finally:
        stop.set()
        listening.close()
    requests = [each for each in asked if b"RTSP" in each]
    assert bool(requests) == believed


def test_ca_that_is_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    for path in (tmp_path / "ca.pem", tmp_path / "absent.pem"):
        with pytest.raises(
            SourceError, match=rf"{path.name}: no PEM file of certificates; give --ca such a file"
        ):
            open_source("https://localhost:1/a.mp4", trust=Trust(ca_file=path))
