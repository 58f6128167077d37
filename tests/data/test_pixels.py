"""From image files to tensors."""

import pickle
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from zeromamba.data import ImageDataset, ImageFiles, normalise
from zeromamba.data.pixels import require_decodable, require_files


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "rgb.png")
    Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8)).save(tmp_path / "grey.jpg")
    Image.fromarray(rng.integers(0, 256, (9, 9, 4), np.uint8)).save(tmp_path / "alpha.png")
    Image.fromarray(rng.integers(0, 256, (40, 8, 4), np.uint8), mode=None).convert("CMYK").save(tmp_path / "cmyk.jpg")
    return ImageFiles(tmp_path, ["rgb.png", "grey.jpg", "alpha.png", "cmyk.jpg"])


def test_items_are_resized_images_and_their_index(images):
    dataset = ImageDataset(images, torch.tensor([2, 0]), 16)
    assert len(dataset) == 2
    tensor, index = dataset[1]
    assert index == 0
    assert tensor.shape == (3, 16, 16)
    resized = np.asarray(images.load(0).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(tensor.permute(1, 2, 0), resized)


def test_images_are_normalised_as_imagenet_models_expect():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1).unflatten(-1, (16, 16))
    expected = (pixels.permute(0, 2, 3, 1).double() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    normalised = normalise(pixels)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised.permute(0, 2, 3, 1), expected.float(), rtol=0, atol=1e-6)
    assert pixels.max() == 255, "what was given is as it was"


def test_every_mode_becomes_rgb(images):
    dataset = ImageDataset(images, torch.arange(4), 16)
    assert all(dataset[i][0].shape == (3, 16, 16) for i in range(4))
    assert torch.equal(dataset[1][0][0], dataset[1][0][2]), "of a grey picture"


def read(path, image, **options):
    """What is made of an image that was saved under a name, after the check has passed it."""
    image.save(path, **options)
    files = ImageFiles(path.parent, [path.name])
    require_decodable(files)
    return np.asarray(files.load(0)).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_picture_is_turned_as_its_camera_says(tmp_path, suffix, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255, 0, 0
    upright[8:, 24:] = 0, 0, 255
    undo = (None, 0, 3, 1, 5, 2, 6, 4)[orientation - 1]  # Image.Transpose: how a camera so held stores it
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = Image.fromarray(upright)
    stored = stored if undo is None else stored.transpose(undo)
    assert (stored.size == (32, 16)) == (orientation < 5)
    shown = read(tmp_path / f"picture.{suffix}", stored, exif=exif, quality=100, subsampling=0, lossless=True)
    assert abs(shown - upright).max() < 8


# of a JPEG, Pillow reads EXIF when it opens it, and passes over this
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_exif_that_cannot_be_read_turns_nothing_and_stops_nothing(tmp_path, suffix):
    stored = Image.new("RGB", (32, 16), "red")
    assert read(tmp_path / f"picture.{suffix}", stored, exif=b"Exif\0\0nothing").shape == (16, 32, 3)


def test_sixteen_bits_of_grey_are_the_same_picture_as_eight(tmp_path):
    eight = np.arange(256, dtype=np.uint8)[None].repeat(4, 0)
    for off in (0, 128 * (eight < 255), -128 * (eight > 0)):
        shown = read(tmp_path / "grey.png", Image.fromarray((257 * eight.astype(int) + off).astype(np.uint16)))
        np.testing.assert_array_equal(shown, eight[..., None].repeat(3, 2))


COLOUR = Image.merge("RGBA", [Image.new("L", (8, 4), value) for value in (200, 100, 0, 255)])
COLOUR.paste((0, 255, 0, 0), (4, 0, 8, 4))  # a hidden green on the right


@pytest.mark.parametrize(
    ("image", "options", "left"),
    [
        (COLOUR, {}, (200, 100, 0)),
        (COLOUR.convert("LA"), {}, (118, 118, 118)),
        (COLOUR.quantize(4), {}, (200, 100, 0)),
        (COLOUR.convert("RGB"), {"transparency": (0, 255, 0)}, (200, 100, 0)),
        (Image.fromarray(np.uint16([[0, 0, 7, 7]])), {"transparency": 7}, (0, 0, 0)),
    ],
    ids=["RGBA", "LA", "palette", "key colour", "key of 16 bits"],
)
def test_what_is_transparent_is_white(tmp_path, image, options, left):
    shown = read(tmp_path / "picture.png", image, **options)
    assert (shown[:, : image.width // 2] == left).all()
    assert (shown[:, image.width // 2 :] == 255).all()


def test_half_transparent_is_half_white(tmp_path):
    shown = read(tmp_path / "picture.png", Image.new("RGBA", (2, 2), (100, 0, 200, 128)))
    assert abs(shown - (177, 127, 227)).max() <= 1


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_a_white_are_refused(tmp_path, dtype):
    path = tmp_path / "depth.png"
    Image.fromarray(np.ones((4, 4), dtype)).save(path, format="TIFF")
    files = ImageFiles(tmp_path, [path.name])
    for action in (lambda: require_decodable(files), lambda: files.load(0)):
        with pytest.raises(
            ValueError, match=r"depth\.png.*mode [IF] does not say which number is white: save it with 8"
        ):
            action()


def test_travels_to_worker_processes(images):
    dataset = ImageDataset(images, torch.arange(4), 8)
    there = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(there[2][0], dataset[2][0])
    with_workers = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=1)
    assert [index.tolist() for _, index in with_workers] == [[0, 1], [2, 3]]


def test_check_accepts_good_files(images):
    require_files(images, "get them")
    require_decodable(images)


def test_many_bad_files_are_counted_and_the_first_eight_listed(tmp_path):
    files = ImageFiles(tmp_path, [f"{i:02}.jpg" for i in range(14)])
    with pytest.raises(FileNotFoundError, match=r"14 of 14 images are missing") as error:
        require_files(files, "get them from there")
    assert "07.jpg" in str(error.value)
    assert "08.jpg" not in str(error.value)
    assert "and 6 more" in str(error.value)
    assert "get them from there" in str(error.value)
    for path in files.paths:
        (tmp_path / path).write_bytes(b"")
    with pytest.raises(ValueError, match=r"14 of 14 images cannot be decoded") as error:
        require_decodable(files)
    assert "and 6 more" in str(error.value)


@pytest.mark.parametrize("raised", [RuntimeError, AssertionError, NotImplementedError])
def test_whatever_a_decoder_raises_the_file_is_named(tmp_path, raised, monkeypatch):
    monkeypatch.setattr(Image, "open", Mock(side_effect=raised("Failed to decode frame 0")))  # as of an AVIF
    files = ImageFiles(tmp_path, ["image.jpg"])
    with pytest.raises(ValueError, match=r"image\.jpg: cannot be read as an image \(Failed to decode frame 0\)"):
        files.load(0)
    with pytest.raises(ValueError, match=r"image\.jpg \(Failed to decode frame 0\)"):
        require_decodable(files)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_truncated_file_is_found(tmp_path, suffix, kept, options):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(pixels).save(path, **options)
    require_decodable(ImageFiles(tmp_path, [path.name]))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=f"image.{suffix}"):
        require_decodable(ImageFiles(tmp_path, [path.name]))
    with pytest.raises(ValueError, match=f"image.{suffix}: cannot be read as an image"):
        ImageFiles(tmp_path, [path.name]).load(0)
    require_files(ImageFiles(tmp_path, [path.name]), "")
