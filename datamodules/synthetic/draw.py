"""Draws a scene: antialiased shapes on a muted grey background, with exact masks of what is visible of each."""

from __future__ import annotations

import math

import cv2
import numpy as np

from datamodules.synthetic.scene import Scene, Shape

_SUPERSAMPLE = 8


def draw(scene: Scene) -> tuple[np.ndarray, list[np.ndarray]]:
    """Paint a scene.

    Returns:
        The image, (H, W, 3) uint8 RGB, and a mask (H, W) bool for each shape: the pixels that it covers by more than
        half and that no later shape takes from it.
    """
    image = _background(scene)
    masks: list[np.ndarray] = []
    for shape in scene.shapes:
        left, top = max(int(shape.x - 1.4 * shape.radius), 0), max(int(shape.y - 1.4 * shape.radius), 0)
        right = min(int(shape.x + 1.4 * shape.radius) + 2, scene.width)
        bottom = min(int(shape.y + 1.4 * shape.radius) + 2, scene.height)
        coverage = _coverage(shape, left, top, right - left, bottom - top)
        part = image[top:bottom, left:right]
        part += coverage[..., None] * (np.array(shape.rgb, dtype=np.float32) - part)
        covered = coverage > 0.5
        for mask in masks:
            mask[top:bottom, left:right] &= ~covered
        mask = np.zeros((scene.height, scene.width), dtype=bool)
        mask[top:bottom, left:right] = covered
        masks.append(mask)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), masks


def _background(scene: Scene) -> np.ndarray:
    """Grey between about 85 and 175: a slope and soft blotches, never near black or white. (H, W, 3) float32."""
    rng = np.random.Generator(np.random.PCG64(scene.texture))
    blotches = rng.uniform(-11, 11, size=(6, 6)).astype(np.float32)
    grey = cv2.resize(blotches, (scene.width, scene.height), interpolation=cv2.INTER_CUBIC)
    across = np.linspace(-1, 1, scene.width, dtype=np.float32) * np.float32(rng.uniform(-9, 9))
    down = np.linspace(-1, 1, scene.height, dtype=np.float32) * np.float32(rng.uniform(-9, 9))
    grey += np.float32(rng.uniform(118, 142)) + across[None] + down[:, None]
    return cv2.cvtColor(np.rint(grey), cv2.COLOR_GRAY2RGB)


def _coverage(shape: Shape, left: int, top: int, width: int, height: int) -> np.ndarray:
    """Share of each pixel of a window that the shape covers, (height, width) float32."""
    fine = np.zeros((height * _SUPERSAMPLE, width * _SUPERSAMPLE), dtype=np.uint8)
    outline = _outline(shape) - (left, top)
    # fillPoly takes pixel centres as integer coordinates: half a fine pixel back, in 1/16 pixels
    points = np.rint((outline * _SUPERSAMPLE - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(fine, [points], 255, lineType=cv2.LINE_8, shift=4)
    small = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def _outline(shape: Shape) -> np.ndarray:
    """Corners of a shape in image coordinates, (N, 2); forms are scaled to look about equally large."""
    if shape.form == "circle":
        angles = np.arange(48) * (2 * math.pi / 48)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        points = np.array(_CORNERS[shape.form])
    turn = math.radians(shape.angle)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return np.asarray(points @ rotation * shape.radius + (shape.x, shape.y))


def _star() -> list[tuple[float, float]]:
    radii = [1.15 if corner % 2 == 0 else 0.52 for corner in range(10)]
    angles = [math.pi * (corner / 5 - 0.5) for corner in range(10)]
    return [(r * math.cos(a), r * math.sin(a) + 0.05) for r, a in zip(radii, angles, strict=True)]


def _cross() -> list[tuple[float, float]]:
    arm, half = 1.0, 0.36
    quarter = [(half, -arm), (half, -half), (arm, -half)]
    corners: list[tuple[float, float]] = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return corners


_CORNERS = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -1.25), (1.08, 0.625), (-1.08, 0.625)],
    "star": _star(),
    "cross": _cross(),
}
