"""A small CUB, written in the layout and the file formats of the full one."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from zeromamba.data import ZSLData, load_dataset

FOREIGN = "/BS/Deep_Fragments/work/MSc/CUB_200_2011/CUB_200_2011//images"


class SmallCUB:
    """5 seen classes of 6 images, 2 unseen ones of 3, and a class with attributes only; change a field and write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = ["007.Tern", "002.Wren", "009.Jay", "001.Auk", "003.Owl", "005.Rook", "004.Kite", "006.Emu"]
        rng = np.random.default_rng(0)
        att = rng.random((5, 8))
        counts = {1: 6, 2: 6, 3: 6, 4: 6, 5: 6, 7: 3, 8: 3}  # by 1-based label; class 6 has no image
        labels = [k for k, count in counts.items() for _ in range(count)]
        self.files = [f"{self.names[k - 1]}/{i:03}.jpg" for i, k in enumerate(labels)]
        of_seen = np.arange(1, 31)
        self.res101 = {
            "image_files": np.array([[f"{FOREIGN}/{file}"] for file in self.files], dtype=object),
            "labels": np.array(labels, np.uint8)[:, None],
            "features": np.zeros((4, len(labels))),
        }
        self.att_splits = {
            "att": att / np.linalg.norm(att, axis=0),
            "allclasses_names": np.array([[name] for name in self.names], dtype=object),
            "trainval_loc": of_seen[of_seen % 3 > 0].astype(np.uint16)[:, None],
            "test_seen_loc": of_seen[of_seen % 3 == 0].astype(np.uint8)[:, None],
            "test_unseen_loc": np.arange(31, 37).astype(np.uint8)[:, None],
        }
        self.vectors = rng.normal(size=(5, 300))
        self.photographs = root / "CUB/CUB_200_2011/images"
        self.splits = root / "xlsa17/data/CUB"
        self.pickle = root / "w2v/CUB_attribute.pkl"
        for i, file in enumerate(self.files):
            path = self.photographs / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (24, 16, 3), np.uint8)).save(path)

    def write(self) -> "SmallCUB":
        self.splits.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(self.splits / "res101.mat", self.res101)
        scipy.io.savemat(self.splits / "att_splits.mat", self.att_splits)
        self.pickle.parent.mkdir(exist_ok=True)
        self.pickle.write_bytes(pickle.dumps(self.vectors, protocol=3))
        return self

    def load(self, **options) -> ZSLData:
        self.write()
        return load_dataset("cub", self.root, **{"seed": 0, **options})


@pytest.fixture
def cub(tmp_path) -> SmallCUB:
    return SmallCUB(tmp_path)
