"""A frame as a person wants to see it: the picture, the purified picture inset, and a bar with the decision.

The layout is worked out in units of a 960-pixel-wide canvas, and small frames are enlarged first, so that the
text is as readable on a 64x64 frame as on a 1920x1080 one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sdk.result import Result
    from sdk.sources.roi import Roi

Picture = npt.NDArray[np.uint8]  # (H, W, 3) BGR
Color = tuple[int, int, int]

NARROWEST, WIDEST, TALLEST = 640, 1920, 1080  # pixels of the picture in the canvas
INSET_SHARE = 0.28  # of the picture's shorter side

_BAR, _WHITE, _GREY, _TRACK = (30, 26, 24), (250, 250, 250), (172, 166, 160), (70, 64, 60)
_GREEN, _AMBER, _RED = (110, 200, 90), (60, 180, 245), (80, 80, 235)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def annotate(image: Picture, result: Result, roi: Roi | None = None) -> Picture:
    """Draw a result beside its frame.

    Args:
        image: the frame, ``(H, W, 3)`` uint8 BGR; not changed.
        result: what the purifier made of it.
        roi: the part of it that the purifier saw, which gets a frame; None is all of it.

    Returns:
        A new picture with even sides, at least 640 pixels wide; frames of one size give pictures of one size.
    """
    picture = _scaled(image)
    height, width = picture.shape[:2]
    canvas_width = max(NARROWEST, width)
    unit = max(0.85, canvas_width / 960)
    bar_height = 2 * round(32 * unit)
    canvas = np.full((height + bar_height, canvas_width, 3), _BAR, np.uint8)
    left = (canvas_width - width) // 2
    canvas[:height, left : left + width] = picture
    if roi is not None:
        _draw_roi(canvas[:height, left : left + width], roi, width / image.shape[1], unit)
    if (purified := result.purified) is not None:
        _draw_inset(canvas[:height], purified, unit)
    _draw_bar(canvas[height:], result, unit)
    return canvas


def fit(picture: Picture, width: int, height: int) -> Picture:
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


def _scaled(image: Picture) -> Picture:
    """The frame at the size it is shown: whole pixels enlarged, large frames averaged down, sides even."""
    height, width = image.shape[:2]
    factor = max(1, min(-(-NARROWEST // width), TALLEST // height))
    shrink = min(1.0, WIDEST / width, TALLEST / height)
    size = (_even(width * factor * shrink), _even(height * factor * shrink))
    if size == (width, height):
        return image
    interpolation = cv2.INTER_AREA if shrink < 1 else cv2.INTER_NEAREST
    return cv2.resize(image, size, interpolation=interpolation)  # type: ignore[no-any-return]


def _draw_roi(area: Picture, roi: Roi, scale: float, unit: float) -> None:
    """A line along the region's border, light on dark so that it shows on anything."""
    corner = (round(roi.x * scale), round(roi.y * scale))
    opposite = (round((roi.x + roi.width) * scale) - 1, round((roi.y + roi.height) * scale) - 1)
    thickness = max(1, round(2 * unit))
    cv2.rectangle(area, corner, opposite, _BAR, thickness + 2)
    cv2.rectangle(area, corner, opposite, _AMBER, thickness)


def _draw_inset(area: Picture, purified: Picture, unit: float) -> None:
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


def _draw_bar(bar: Picture, result: Result, unit: float) -> None:
    """Label and score at the left, the engines drawn and the time at the right; red if there is no label."""
    width = bar.shape[1]
    pad, baseline = round(18 * unit), round(38 * unit)
    details = _details(result)
    details_left = width - pad - max(_text_width(line, 0.5 * unit) for line in details)
    if result.label is None:
        bar[: max(2, round(3 * unit))] = _RED
        reason = result.error or "skipped"
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
        score = result.score or 0.0
        _draw_score(bar, score, unit)
        figure = f"{100 * score:.0f}%"
        room = details_left - 3 * pad - _text_width(figure, 0.75 * unit)
        label = _clipped(result.label, room, unit)
        _text(bar, label, pad, baseline, unit, _WHITE, bold=True)
        _text(bar, figure, 2 * pad + _text_width(label, unit, bold=True), baseline, 0.75 * unit, _GREY)
    for row, line in enumerate(details):
        x = width - pad - _text_width(line, 0.5 * unit)
        _text(bar, line, x, round((28 + 22 * row) * unit), 0.5 * unit, _GREY)


def _draw_score(bar: Picture, score: float, unit: float) -> None:
    """The score as a line along the bar's upper edge."""
    thickness = max(2, round(3 * unit))
    bar[:thickness] = _TRACK
    bar[:thickness, : round(score * bar.shape[1])] = _GREEN if score >= 0.5 else _AMBER


def _details(result: Result) -> tuple[str, str]:
    drawn = f"{result.draw.purifier_id} x {result.draw.classifier_id}" if result.draws else ""
    votes = f"  +{len(result.draws) - 1} more" if len(result.draws) > 1 else ""
    suspicion = "" if result.suspicion is None else f"suspicion {100 * result.suspicion:.0f}%  "
    seeded = "  seeded" if result.seeded else ""
    return (
        f"{drawn}{votes}",
        f"{suspicion}{result.timings.total_ms:.1f} ms{seeded}",
    )


def _text(
    area: Picture, text: str, x: int, y: int, scale: float, color: Color, *, bold: bool = False
) -> None:
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
