"""From image files to tensors."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from zeromamba.data import ImageDataset, ImageFiles
from zeromamba.data.pixels import check_files


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "rgb.png")
    Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8)).save(tmp_path / "grey.jpg")
    Image.fromarray(rng.integers(0, 256, (9, 9, 4), np.uint8)).save(tmp_path / "alpha.png")
    Image.fromarray(rng.integers(0, 256, (40, 8, 4), np.uint8), mode=None).convert("CMYK").save(tmp_path / "cmyk.jpg")
    return ImageFiles(tmp_path, ["rgb.png", "grey.jpg", "alpha.png", "cmyk.jpg"])


def test_items_are_normalised_images_and_their_index(images):
    dataset = ImageDataset(images, torch.tensor([2, 0]), 16)
    assert len(dataset) == 2
    tensor, index = dataset[1]
    assert index == 0
    assert tensor.shape == (3, 16, 16)
    assert tensor.dtype == torch.float32
    resized = np.asarray(images.load(0).resize((16, 16), Image.Resampling.BILINEAR)) / 255
    expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(tensor.permute(1, 2, 0), expected, atol=1e-6)


def test_every_mode_becomes_rgb(images):
    dataset = ImageDataset(images, torch.arange(4), 16)
    assert all(dataset[i][0].shape == (3, 16, 16) for i in range(4))
    grey = dataset[1][0] * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    grey += torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    torch.testing.assert_close(grey[0], grey[2])


def test_travels_to_worker_processes(images):
    dataset = ImageDataset(images, torch.arange(4), 8)
    there = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(there[2][0], dataset[2][0])
    with_workers = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=1)
    assert [index.tolist() for _, index in with_workers] == [[0, 1], [2, 3]]


def test_check_accepts_good_files(images):
    check_files(images, "get them")


def test_many_bad_files_are_counted_and_the_first_ten_listed(tmp_path):
    files = ImageFiles(tmp_path, [f"{i:02}.jpg" for i in range(14)])
    with pytest.raises(FileNotFoundError, match=r"14 of 14 images are missing") as error:
        check_files(files, "get them from there")
    assert "09.jpg" in str(error.value)
    assert "10.jpg" not in str(error.value)
    assert "and 4 more" in str(error.value)
    assert "get them from there" in str(error.value)
    for path in files.paths:
        (tmp_path / path).write_bytes(b"")
    with pytest.raises(ValueError, match=r"14 of 14 images cannot be decoded") as error:
        check_files(files, "")
    assert "and 4 more" in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_truncated_file_is_found(tmp_path, suffix, kept, options):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(pixels).save(path, **options)
    check_files(ImageFiles(tmp_path, [path.name]), "")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=f"image.{suffix}"):
        check_files(ImageFiles(tmp_path, [path.name]), "")
    with pytest.raises(ValueError, match=f"image.{suffix}: cannot be read as an image"):
        ImageFiles(tmp_path, [path.name]).load(0)
    check_files(ImageFiles(tmp_path, [path.name]), "", decode=False)
