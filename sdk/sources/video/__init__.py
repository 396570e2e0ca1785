"""Recorded videos and the decoding of streams: by PyAV, or by OpenCV where that is absent."""
