"""The demo: drawn images, no download. Classes are combinations of visible attributes, some never trained on.

48 classes such as "red striped triangle", 11 attributes. An image shows its shape once, at a random place, size
and angle, on a random background with noise and grey clutter. Ten combinations are unseen, eight more are
validation classes; every shape, colour and texture is still trained on in other combinations, and so is every
pair of a shape and a colour.
"""

import colorsys
import math
from itertools import product

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .base import ZSLData
from .pixels import DrawnImages

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {"red": 0.0, "yellow": 0.14, "green": 0.36, "blue": 0.62}  # hues
TEXTURES = ("solid", "striped", "dotted")
IMAGES = {"trainval": 36, "test_seen": 14, "test_unseen": 30}  # per class
SIDE = 64  # pixels
DRAWN = 2 * SIDE  # drawn at twice the size, then averaged: smooth edges


def load_demo() -> ZSLData:
    """Draw the demo data set, the same each time.

    Returns:
        38 seen and 10 unseen classes, 2,200 images of 64 x 64; V is the identity.
    """
    combinations = list(product(range(len(SHAPES)), range(len(COLOURS)), range(len(TEXTURES))))
    names = tuple(f"{[*COLOURS][c]} {TEXTURES[t]} {SHAPES[s]}" for s, c, t in combinations)
    roles = [_role(*combination) for combination in combinations]
    labels, part = [], []
    for k, role in enumerate(roles):
        for name in ("test_unseen",) if role == "unseen" else ("trainval", "test_seen"):
            labels += [k] * IMAGES[name]
            part += [name] * IMAGES[name]
    pixels = np.stack([draw(*combinations[k], np.random.default_rng([0, i])) for i, k in enumerate(labels)])
    attribute_names = (*COLOURS, *TEXTURES, *SHAPES)
    shown = [[attribute in name.split() for attribute in attribute_names] for name in names]  # three of each class
    return ZSLData(
        name="demo",
        class_names=names,
        Z=torch.tensor(shown) * 3**-0.5,
        attribute_names=attribute_names,
        V=torch.eye(len(attribute_names)),
        word_vectors_source="the identity, as the demo has none",
        partial="",
        notes=(),
        images=DrawnImages(pixels, [f"demo image {i}: {names[k]}" for i, k in enumerate(labels)]),
        labels=torch.tensor(labels),
        **{name: _where(np.array(part) == name) for name in IMAGES},
        val_classes=_where(np.array(roles) == "validation"),
        val_source="8 classes set aside by the demo",
    )


def _where(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask))


def _role(s: int, c: int, t: int) -> str:
    """Of 10 of the 16 pairs of shape and colour one texture is unseen; of 8, one is for validation."""
    offset = (c - s) % 4
    if t == (s + c) % 3 and (offset < 2 or (offset == 2 and s % 2 == 0)):
        return "unseen"
    return "validation" if t == (s + c + 1) % 3 and offset >= 2 else "train"


def draw(shape: int, colour: int, texture: int, rng: np.random.Generator) -> np.ndarray:
    """One image, (64, 64, 3) uint8; all that is random about it comes from rng."""
    radius = rng.uniform(0.26, 0.38) * DRAWN
    centre = rng.uniform(1.15 * radius, DRAWN - 1.15 * radius, 2)
    angle = rng.uniform(-20, 20)
    hue = list(COLOURS.values())[colour] + rng.uniform(-0.03, 0.03)
    ink = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.75, 1), rng.uniform(0.65, 1)))
    pale = rng.random() < 0.5  # the texture's second tone is lighter or darker than the first
    second = ink + 0.75 * (1 - ink) if pale else 0.25 * ink
    mask, pattern = _mask(shape, centre, radius, angle), _pattern(texture, rng)
    image = _background(rng)
    image += mask * (ink + pattern * (second - ink) - image)
    image += rng.normal(0, 0.03, image.shape)
    return (255 * image.clip(0, 1)).astype(np.uint8)


def _mask(shape: int, centre: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Coverage of the shape, (64, 64, 1) in [0, 1]; all shapes have about the same area."""
    canvas = Image.new("L", (DRAWN, DRAWN))
    pen = ImageDraw.Draw(canvas)
    if SHAPES[shape] == "circle":
        r = 0.85 * radius
        pen.ellipse([*(centre - r), *(centre + r)], fill=255)
    else:
        arm = 0.36
        corners = {
            "square": [(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)],
            "triangle": [(0, -1.15), (1.1, 0.8), (-1.1, 0.8)],
            "cross": [
                (-arm, -1.05), (arm, -1.05), (arm, -arm), (1.05, -arm), (1.05, arm), (arm, arm),
                (arm, 1.05), (-arm, 1.05), (-arm, arm), (-1.05, arm), (-1.05, -arm), (-arm, -arm),
            ],
        }[SHAPES[shape]]  # fmt: skip
        turn = math.radians(angle)
        rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        pen.polygon([tuple(p) for p in centre + radius * np.array(corners) @ rotation], fill=255)
    return _downsampled(canvas)


def _pattern(texture: int, rng: np.random.Generator) -> np.ndarray:
    """Where the second tone goes, (64, 64, 1) in [0, 1]: nowhere, bands at any angle, or a grid of dots."""
    canvas = Image.new("L", (DRAWN, DRAWN))
    pen = ImageDraw.Draw(canvas)
    period, phase = rng.uniform(14, 20), rng.uniform(0, 20, 2)
    if TEXTURES[texture] == "striped":
        turn = rng.uniform(0, math.pi)
        along = np.array([math.cos(turn), math.sin(turn)])
        across = np.array([-math.sin(turn), math.cos(turn)])
        for k in np.arange(-DRAWN, DRAWN, period) + phase[0]:
            start = DRAWN / 2 + k * across
            pen.line([*(start - DRAWN * along), *(start + DRAWN * along)], fill=255, width=round(period / 2))
    elif TEXTURES[texture] == "dotted":
        r, along = 0.3 * period, np.arange(-period, DRAWN + period, period)
        for x, y in product(along + phase[0], along + phase[1]):
            pen.ellipse([x - r, y - r, x + r, y + r], fill=255)
    return _downsampled(canvas)


def _background(rng: np.random.Generator) -> np.ndarray:
    """A soft grey-tinted gradient with grey bars and discs as clutter, (64, 64, 3) float."""
    tone = rng.uniform(0.15, 0.85) + rng.uniform(-0.12, 0.12, (4, 4, 3)) * [1, 0.8, 0.8]
    soft = Image.fromarray((255 * tone.clip(0, 1)).astype(np.uint8)).resize((DRAWN, DRAWN), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(soft)
    for _ in range(rng.integers(2, 6)):
        grey = (int(rng.integers(30, 226)),) * 3
        (x, y), (dx, dy) = rng.uniform(0, DRAWN, 2), rng.uniform(-40, 40, 2)
        if rng.random() < 0.5:
            pen.line([x, y, x + dx, y + dy], fill=grey, width=int(rng.integers(3, 8)))
        else:
            pen.ellipse([x, y, x + abs(dx) / 2, y + abs(dx) / 2], fill=grey)
    return np.asarray(soft.reduce(2), np.float64) / 255


def _downsampled(canvas: Image.Image) -> np.ndarray:
    return np.asarray(canvas.reduce(2), np.float64)[..., None] / 255
