"""From image files to tensors: read, resize to a square; and normalise as ImageNet models expect, on any device."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ..machine import CORES
from ..messages import listing
from .base import ImageSource

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: What Pillow raises for a broken file: SyntaxError of a PNG, RuntimeError of an AVIF, AssertionError of an ICNS.
UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, AssertionError, Image.DecompressionBombError)
LINES = "\n  "  # between the bad files that an error lists


class ImageFiles:
    """Images of a folder, decoded whenever they are asked for."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self.root, self.paths = root, tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, i: int) -> str:
        """Path of image i."""
        return str(self.root / self.paths[i])

    def relative_path(self, i: int) -> str:
        """Path of image i within the folder."""
        return self.paths[i]

    def load(self, i: int) -> Image.Image:
        """Decode image i.

        Raises:
            ValueError: for a file that is missing, truncated, no image, or none that `to_rgb` takes, naming it.
        """
        try:
            with Image.open(self.name(i)) as image:
                return to_rgb(image)
        except UNREADABLE as error:
            raise ValueError(f"{self.name(i)}: cannot be read as an image ({error})") from error


class DrawnImages:
    """Images that are in no file, in memory as (images, H, W, 3) uint8."""

    def __init__(self, pixels: np.ndarray, names: Sequence[str]) -> None:
        self.pixels, self.names = pixels, tuple(names)

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, i: int) -> str:
        """What image i shows."""
        return self.names[i]

    relative_path = name

    def load(self, i: int) -> Image.Image:
        """Image i."""
        return Image.fromarray(self.pixels[i])


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image, decoded to its last byte, as people see it: upright by its EXIF, in RGB, transparent on white.

    Raises:
        ValueError: for numbers of which none is said to be white (modes I and F), or colours that cannot become RGB.
        OSError, SyntaxError: for a file that is truncated or broken.
    """
    image.load()
    with suppress(Exception):  # EXIF can be broken in many ways; then nothing says that the image is not upright
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        grey = np.asarray(image, np.int64)
        grey = np.where(grey == image.info.get("transparency"), 65_535, grey)
        return Image.fromarray(np.uint8((grey + 128) // 257)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} does not say which number is white: save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def resize(image: Image.Image, size: int) -> Image.Image:
    """To a square, bilinear with antialiasing, aspect ratio not kept (as the released code)."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def normalise(images: Tensor) -> Tensor:
    """Images (..., 3, H, W) uint8 to float32 in [0, 1], minus ImageNet's mean, over its deviation."""
    mean, std = (  # not made there, for which the host would wait
        torch.tensor(v).view(3, 1, 1).to(images.device, non_blocking=True) for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return images.float().div_(255).sub_(mean).div_(std)


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Some images of a source, in the given order: item j is ((3, size, size) uint8, image index).

    Items stay uint8, cheap to pass between processes and to the device, where `normalise` takes whole batches.

    Args:
        images: any image source.
        indices: (m,) int64 image indices.
        size: side in pixels.
    """

    def __init__(self, images: ImageSource, indices: Tensor, size: int) -> None:
        self.images, self.indices, self.size = images, indices.tolist(), size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, j: int) -> tuple[Tensor, int]:
        i = self.indices[j]
        pixels = np.array(resize(self.images.load(i), self.size))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), i


def require_files(images: ImageFiles, advice: str) -> None:
    """Raise FileNotFoundError, with advice on where to get them, unless all images are there."""
    missing = [path for path in images.paths if not (images.root / path).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(images)} images are missing under {images.root}:\n  "
            f"{listing(missing, LINES)}\n{advice}"
        )


def require_decodable(images: ImageSource) -> None:
    """Read every file once: raise ValueError, listing them, for those that cannot be decoded to their last byte."""
    if not isinstance(images, ImageFiles):
        return

    def problem(i: int) -> str | None:
        try:
            with Image.open(images.name(i)) as image:
                image.draft("RGB", (1, 1))  # a JPEG decodes at an eighth of its size, still to its last byte
                to_rgb(image)
        except UNREADABLE as error:
            return f"{images.name(i)} ({error})"
        return None

    with ThreadPoolExecutor(CORES) as pool:  # Pillow decodes outside the interpreter's lock
        broken = list(filter(None, pool.map(problem, range(len(images)))))
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(images)} images cannot be decoded:\n  {listing(broken, LINES)}\n"
            "Copy or download these files again, or save them smaller or in another format."
        )
