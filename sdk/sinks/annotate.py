"""Annotated frames: the picture, the purified picture as an inset, and a bar with the decision.

Lengths are in units of a canvas that is 960 pixels wide, and small frames are enlarged first, so that text is
as legible on a 64x64 frame as on a 1920x1080 one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sdk.arrays import Pixels
from sdk.host.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdk.result import Result
    from sdk.sources import Frame
    from sdk.sources.roi import Roi

Color = tuple[int, int, int]

MIN_WIDTH, MAX_WIDTH, MAX_HEIGHT = 640, 1920, 1080  # pixels of the picture in the canvas
INSET_SHARE = 0.28  # of the picture's shorter side

_BAR, _WHITE, _GREY, _TRACK = (30, 26, 24), (250, 250, 250), (172, 166, 160), (70, 64, 60)
_GREEN, _AMBER, _RED = (110, 200, 90), (60, 180, 245), (80, 80, 235)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def annotate(image: Pixels, result: Result, roi: Roi | None = None) -> Pixels:
    """Draw a result beside its frame.

    Args:
        image: the frame, ``(H, W, 3)`` uint8 BGR; not changed.
        result: the decision on it.
        roi: the part of the frame that was purified, drawn as a rectangle; None is all of it.

    Returns:
        A new picture with even sides, at least 640 pixels wide; frames of one size give pictures of one size.
    """
    canvas, area, unit = _canvas(image)
    if roi is not None:
        _draw_roi(area, roi, area.shape[1] / image.shape[1], unit, _AMBER)
    picture, bar = canvas[: area.shape[0]], canvas[area.shape[0] :]
    if (purified := result.purified) is not None:
        _draw_inset(picture, purified, unit)
    _draw_bar(bar, result, unit)
    return canvas


def annotate_regions(frame: Frame, results: Sequence[Result]) -> Pixels:
    """Draw the results of all of a frame's regions: a rectangle each, and a bar that counts them.

    Args:
        frame: its ``image`` is not changed.
        results: at least one, each with its ``region``.

    Returns:
        A new picture of the size that ``annotate`` gives.
    """
    if len(results) == 1:
        return annotate(frame.image, results[0], results[0].region or frame.roi)
    canvas, area, unit = _canvas(frame.image)
    scale = area.shape[1] / frame.image.shape[1]
    for result in results:
        if result.region is not None:
            color = _color(result)
            _draw_roi(area, result.region, scale, unit, color)
            _draw_tag(area, result, scale, unit, color)
    _draw_counts(canvas[area.shape[0] :], results, unit)
    return canvas


def mark_regions(frame: Frame, results: Sequence[Result]) -> Pixels:
    """The frame with a rectangle around each of its regions, and without text beside it.

    Returns:
        ``(H, W, 3)`` uint8 BGR of the size that ``annotate`` shows the frame in; a new picture.
    """
    picture: Pixels = np.array(_scaled(frame.image))
    scale, unit = picture.shape[1] / frame.image.shape[1], max(0.85, picture.shape[1] / 960)
    for result in results:
        roi = result.region or frame.roi
        if roi is not None:
            _draw_roi(picture, roi, scale, unit, _color(result))
            if len(results) > 1:
                _draw_tag(picture, result, scale, unit, _color(result))
    return picture


def _canvas(image: Pixels) -> tuple[Pixels, Pixels, float]:
    """The canvas with the frame in it, the frame's part of the canvas (a view), and the unit of length."""
    picture = _scaled(image)
    height, width = picture.shape[:2]
    canvas_width = max(MIN_WIDTH, width)
    unit = max(0.85, canvas_width / 960)
    canvas = np.full((height + 2 * round(32 * unit), canvas_width, 3), _BAR, np.uint8)
    left = (canvas_width - width) // 2
    canvas[:height, left : left + width] = picture
    return canvas, canvas[:height, left : left + width], unit


def fit(picture: Pixels, width: int, height: int) -> Pixels:
    """``picture`` scaled to fit into ``width`` x ``height`` pixels, centred on the bar's colour."""
    if picture.shape[:2] == (height, width):
        return picture
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    scaled = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.full((height, width, 3), _BAR, np.uint8)
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = scaled
    return canvas


def _scaled(image: Pixels) -> Pixels:
    """The frame at the size it is shown: whole pixels enlarged, large frames averaged down, sides even."""
    height, width = image.shape[:2]
    factor = max(1, min(-(-MIN_WIDTH // width), MAX_HEIGHT // height))
    shrink = min(1.0, MAX_WIDTH / width, MAX_HEIGHT / height)
    size = (_even(width * factor * shrink), _even(height * factor * shrink))
    if size == (width, height):
        return image
    interpolation = cv2.INTER_AREA if shrink < 1 else cv2.INTER_NEAREST
    return cv2.resize(image, size, interpolation=interpolation)  # type: ignore[no-any-return]


def _draw_roi(area: Pixels, roi: Roi, scale: float, unit: float, color: Color) -> None:
    """A line along the region's border, light on dark so that it shows on anything."""
    corner = (round(roi.x * scale), round(roi.y * scale))
    opposite = (round((roi.x + roi.width) * scale) - 1, round((roi.y + roi.height) * scale) - 1)
    thickness = max(1, round(2 * unit))
    cv2.rectangle(area, corner, opposite, _BAR, thickness + 2)
    cv2.rectangle(area, corner, opposite, color, thickness)


def _draw_tag(area: Pixels, result: Result, scale: float, unit: float, color: Color) -> None:
    """A region's decision inside its upper edge, on dark ground."""
    assert result.region is not None
    left, top = round(result.region.x * scale), round(result.region.y * scale)
    size, pad = 0.45 * unit, round(4 * unit)
    room = max(round(40 * unit), round(result.region.width * scale)) - 2 * pad
    decision = printable(result.label or "no label")
    text = _clipped(f"{decision} {_percent(result)}".strip(), room, size)
    right, bottom = left + _text_width(text, size, bold=True) + 2 * pad, top + round(18 * unit)
    cv2.rectangle(area, (left, top), (right, bottom), _BAR, cv2.FILLED)
    _text(area, text, left + pad, bottom - round(5 * unit), size, color)


def _draw_inset(area: Pixels, purified: Pixels, unit: float) -> None:
    """The purified picture at the top right, pixel for pixel as the classifier got it, under a caption."""
    height, width = area.shape[:2]
    side = int(INSET_SHARE * min(height, width))
    scale = side / max(purified.shape[:2])
    inset = cv2.resize(
        purified,
        (max(1, round(purified.shape[1] * scale)), max(1, round(purified.shape[0] * scale))),
        interpolation=cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA,
    )
    margin, border, caption = round(14 * unit), max(2, round(2 * unit)), round(20 * unit)
    top, right = margin, width - margin
    bottom, left = top + inset.shape[0] + caption + border, right - inset.shape[1] - 2 * border
    if bottom > height or inset.shape[1] < _text_width("purified", 0.42 * unit):
        return  # a strip of a frame has no room for it
    area[top:bottom, left:right] = _BAR
    picture_top = top + caption
    area[picture_top : picture_top + inset.shape[0], left + border : right - border] = inset
    text_width = _text_width("purified", 0.42 * unit)
    _text(
        area,
        "purified",
        (left + right - text_width) // 2,
        top + caption - round(6 * unit),
        0.42 * unit,
        _WHITE,
    )


def _draw_bar(bar: Pixels, result: Result, unit: float) -> None:
    """Label and score at the left, the engines drawn and the time at the right; red if there is no label."""
    width = bar.shape[1]
    pad, baseline = round(18 * unit), round(38 * unit)
    details = _details(result)
    details_left = width - pad - max(_text_width(line, 0.5 * unit) for line in details)
    if result.label is None:
        bar[: max(2, round(3 * unit))] = _RED
        reason = printable(result.error or "skipped")
        _text(bar, "no label", pad, round(30 * unit), 0.8 * unit, _RED, bold=True)
        _text(
            bar,
            _clipped(reason, details_left - 2 * pad, 0.42 * unit),
            pad,
            round(52 * unit),
            0.42 * unit,
            _GREY,
        )
    else:
        _draw_score(bar, result, unit)
        figure = _percent(result) if result.accepted else f"best {_percent(result)}"
        room = details_left - 3 * pad - _text_width(figure, 0.75 * unit)
        label = _clipped(printable(result.label), room, unit)
        _text(bar, label, pad, baseline, unit, _WHITE if result.accepted else _AMBER, bold=True)
        _text(bar, figure, 2 * pad + _text_width(label, unit, bold=True), baseline, 0.75 * unit, _GREY)
    for row, line in enumerate(details):
        x = width - pad - _text_width(line, 0.5 * unit)
        _text(bar, line, x, round((28 + 22 * row) * unit), 0.5 * unit, _GREY)


def _draw_score(bar: Pixels, result: Result, unit: float) -> None:
    """The score as a line along the bar's upper edge."""
    thickness = max(2, round(3 * unit))
    bar[:thickness] = _TRACK
    bar[:thickness, : round((result.score or 0.0) * bar.shape[1])] = _color(result)


def _draw_counts(bar: Pixels, results: Sequence[Result], unit: float) -> None:
    """How many regions got which label, and the time of all of them."""
    pad = round(18 * unit)
    counts = Counter(result.label or "no label" for result in results)
    time = f"{sum(result.timings.total_ms for result in results):.1f} ms"
    left = bar.shape[1] - pad - _text_width(time, 0.5 * unit)
    text = ", ".join(f"{count} {printable(label)}" for label, count in counts.most_common())
    _text(bar, f"{len(results)} regions", pad, round(28 * unit), 0.6 * unit, _GREY)
    _text(bar, _clipped(text, left - 2 * pad, 0.6 * unit), pad, round(52 * unit), 0.6 * unit, _WHITE)
    _text(bar, time, left, round(28 * unit), 0.5 * unit, _GREY)


def _color(result: Result) -> Color:
    if result.label is None:
        return _RED
    return _GREEN if result.accepted and (result.score or 0.0) >= 0.5 else _AMBER


def _percent(result: Result) -> str:
    return "" if result.score is None else f"{100 * result.score:.0f}%"


def _details(result: Result) -> tuple[str, str]:
    drawn = f"{result.draw.purifier_id} x {result.draw.classifier_id}" if result.draws else ""
    votes = f"  +{len(result.draws) - 1} more" if len(result.draws) > 1 else ""
    suspicion = "" if result.suspicion is None else f"suspicion {100 * result.suspicion:.0f}%  "
    seeded = "  seeded" if result.seeded else ""
    return (
        f"{drawn}{votes}",
        f"{suspicion}{result.timings.total_ms:.1f} ms{seeded}",
    )


def _text(area: Pixels, text: str, x: int, y: int, scale: float, color: Color, *, bold: bool = False) -> None:
    cv2.putText(area, text, (x, y), _FONT, scale, color, _thickness(scale, bold), cv2.LINE_AA)


def _text_width(text: str, scale: float, *, bold: bool = False) -> int:
    return int(cv2.getTextSize(text, _FONT, scale, _thickness(scale, bold))[0][0])


def _thickness(scale: float, bold: bool) -> int:
    return max(1, round(scale * (2 if bold else 1)))


def _clipped(text: str, width: int, scale: float) -> str:
    """``text``, shortened to fit into ``width`` pixels."""
    if _text_width(text, scale, bold=True) <= width:
        return text
    while text and _text_width(text + "...", scale, bold=True) > width:
        text = text[:-1]
    return text + "..."


def _even(length: float) -> int:
    return max(2, 2 * round(length / 2))  # video codecs take no odd sides
