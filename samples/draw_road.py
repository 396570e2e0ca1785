"""Draw road.png: a road as a dash camera sees it, 1280×720, with German traffic signs at its side.

    python samples/draw_road.py [--out samples/road.png]

Drawn, not photographed, so that it is free to use. Prints where each sign stands, as ``--roi`` takes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sdk.arrays import Pixels

WIDTH, HEIGHT = 1280, 720
SCALE = 4  # signs are drawn larger by this factor, then reduced, so that their edges are smooth
MARGIN = 0.1  # around a sign, as in GTSRB's crops
RED, WHITE, BLACK = (38, 28, 178), (232, 234, 236), (28, 28, 30)  # BGR
GRASS = (58, 112, 92)
SEED = 3


@dataclass(frozen=True)
class Sign:
    """A sign: its GTSRB label, how to draw it, and where: center and height in the frame's pixels."""

    label: str
    draw: Callable[[int], tuple[Pixels, Pixels]]
    x: int
    y: int
    height: int

    @property
    def roi(self) -> tuple[int, int, int, int]:
        """x, y, width, height of the sign with its margin."""
        side = round(self.height * (1 + 2 * MARGIN))
        return self.x - side // 2, self.y - side // 2, side, side


def main() -> None:
    """Draw the frame and say where the signs are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("road.png"))
    out = parser.parse_args().out
    cv2.imwrite(str(out), frame())
    print(f"wrote {out}")
    for sign in SIGNS:
        print(f"--roi {','.join(map(str, sign.roi))}  {sign.label}")


def frame() -> Pixels:
    """The whole picture, BGR."""
    random = np.random.default_rng(SEED)
    image = _landscape(random)
    for sign in SIGNS:
        _put(image, sign)
    noisy = cv2.GaussianBlur(image, (0, 0), 0.8) + random.normal(0, 3, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _landscape(random: np.random.Generator) -> Pixels:
    """Sky, trees, grass and a road that narrows towards the horizon."""
    horizon = 330
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    sky = np.linspace(0, 1, horizon)[:, None, None]
    image[:horizon] = ((1 - sky) * (206, 168, 126) + sky * (232, 222, 208)).astype(np.uint8)
    for x in range(-20, WIDTH + 40, 22):
        tall = int(random.integers(30, 110))
        green = (int(random.integers(30, 60)), int(random.integers(60, 100)), int(random.integers(36, 66)))
        cv2.ellipse(image, (x, horizon), (30, tall), 0, 0, 360, green, -1, cv2.LINE_AA)
    image[horizon:] = GRASS  # what of the trees is below the horizon too
    road = np.array([(610, horizon), (670, horizon), (1190, HEIGHT), (90, HEIGHT)])
    cv2.fillPoly(image, [road], (92, 90, 88), cv2.LINE_AA)
    for near, far in ((1.0, 0.72), (0.55, 0.4), (0.3, 0.22), (0.15, 0.1)):
        corners = ((near, -1), (near, 1), (far, 1), (far, -1))
        line = [(640 + side * 12 * depth, horizon + (HEIGHT - horizon) * depth) for depth, side in corners]
        cv2.fillPoly(image, [np.array(line, np.int32)], (215, 218, 220), cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.uint8)


def _put(image: Pixels, sign: Sign) -> None:
    """Draw the sign on its pole."""
    cv2.rectangle(image, (sign.x - 3, sign.y), (sign.x + 3, sign.y + 4 * sign.height), (150, 150, 148), -1)
    face, shape = sign.draw(sign.height * SCALE)
    small = cv2.resize(face, (sign.height, sign.height), interpolation=cv2.INTER_AREA)
    share = cv2.resize(shape, (sign.height, sign.height), interpolation=cv2.INTER_AREA)[..., None] / 255
    top, left = sign.y - sign.height // 2, sign.x - sign.height // 2
    part = image[top : top + sign.height, left : left + sign.height]
    part[:] = (share * small + (1 - share) * part).astype(np.uint8)


def _blank(side: int) -> tuple[Pixels, Pixels]:
    return np.full((side, side, 3), 128, np.uint8), np.zeros((side, side), np.uint8)


def _polygon(side: int, corners: int, *, turned: float, radius: float = 0.5) -> np.ndarray:
    angles = 2 * np.pi * (np.arange(corners) + turned) / corners
    points = side / 2 + radius * side * np.stack([np.sin(angles), -np.cos(angles)], axis=1)
    return points.astype(np.int32)


def stop(side: int) -> tuple[Pixels, Pixels]:
    """Red octagon with a white rim and STOP."""
    face, shape = _blank(side)
    cv2.fillPoly(shape, [_polygon(side, 8, turned=0.5, radius=0.53)], 255)
    cv2.fillPoly(face, [_polygon(side, 8, turned=0.5, radius=0.53)], WHITE)
    cv2.fillPoly(face, [_polygon(side, 8, turned=0.5, radius=0.49)], RED)
    _write(face, "STOP", WHITE, width=0.78)
    return face, shape


def yield_(side: int) -> tuple[Pixels, Pixels]:
    """White triangle on its tip with a red rim."""
    face, shape = _blank(side)
    outer = np.array([(0, 0.06), (1, 0.06), (0.5, 0.93)]) * side
    inner = (outer - outer.mean(axis=0)) * 0.62 + outer.mean(axis=0)
    cv2.fillPoly(shape, [outer.astype(np.int32)], 255)
    cv2.fillPoly(face, [outer.astype(np.int32)], RED)
    cv2.fillPoly(face, [inner.astype(np.int32)], WHITE)
    return face, shape


def no_entry(side: int) -> tuple[Pixels, Pixels]:
    """Red disc with a white bar."""
    face, shape = _disc(side, RED)
    cv2.rectangle(face, (int(0.16 * side), int(0.41 * side)), (int(0.84 * side), int(0.59 * side)), WHITE, -1)
    return face, shape


def speed_limit_50(side: int) -> tuple[Pixels, Pixels]:
    """White disc with a red rim and 50."""
    face, shape = _disc(side, RED)
    cv2.circle(face, (side // 2, side // 2), int(0.38 * side), WHITE, -1)
    _write(face, "50", BLACK, width=0.48)
    return face, shape


def _disc(side: int, color: tuple[int, int, int]) -> tuple[Pixels, Pixels]:
    face, shape = _blank(side)
    for image, paint in ((shape, 255), (face, color)):
        cv2.circle(image, (side // 2, side // 2), side // 2, paint, -1)
    return face, shape


def _write(face: Pixels, text: str, color: tuple[int, int, int], *, width: float) -> None:
    """Write ``text`` in the middle, ``width`` of the sign wide."""
    side = len(face)
    (natural, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    scale = width * side / natural
    thick = max(1, round(0.075 * side * (0.7 if len(text) > 2 else 1)))
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    where = ((side - wide) // 2, (side + tall) // 2)
    cv2.putText(face, text, where, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thick, cv2.LINE_AA)


SIGNS = (
    Sign("stop", stop, x=1030, y=250, height=110),
    Sign("speed limit 50", speed_limit_50, x=860, y=290, height=64),
    Sign("yield", yield_, x=290, y=262, height=92),
    Sign("no entry", no_entry, x=430, y=290, height=56),
)


if __name__ == "__main__":
    main()
