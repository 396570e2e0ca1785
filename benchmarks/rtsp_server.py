"""RTSP camera on this machine, by GStreamer: a moving ball, or sound alone.

    python3 rtsp_server.py [--port 8554] [--size 320x240] [--fps 25] [--sound]

Serves rtsp://127.0.0.1:PORT/camera and prints ``ready PORT`` once it does. Runs in the system's Python, which
has GStreamer's bindings: Debian's python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good, -ugly.
"""

from __future__ import annotations

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - the versions come first

ENCODERS = {
    "x264enc": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 pt=96",
    "openh264enc": "openh264enc gop-size=25 ! rtph264pay name=pay0 pt=96",
    "jpegenc": "jpegenc ! rtpjpegpay name=pay0 pt=26",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--sound", action="store_true")
    options = parser.parse_args()
    Gst.init(None)
    width, _, height = options.size.partition("x")
    encoder = next(line for name, line in ENCODERS.items() if Gst.ElementFactory.find(name) is not None)
    picture = (
        "videotestsrc is-live=true pattern=ball"
        f" ! video/x-raw,width={width},height={height},framerate={options.fps}/1 ! videoconvert ! {encoder}"
    )
    sound = "audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0 pt=8"
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {sound if options.sound else picture} )")
    factory.set_shared(True)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    server.get_mount_points().add_factory("/camera", factory)
    server.attach(None)
    print(f"ready {server.get_bound_port()}", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
