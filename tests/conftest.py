"""Triton's interpreter where there is no GPU, a data set small enough to train on in a test, and the demo."""

import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from zeromamba.data import load_demo

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported
    if find_spec("triton"):
        from triton.runtime import interpreter

        patched = set()

        def call(function, *args, **kwargs):
            """Call a helper of a kernel. Triton would patch its language each time, for half of what a test takes."""
            module = function.fn.__module__
            if module not in patched:
                interpreter._patch_lang(function.fn)
                patched.add(module)
            return function.rewrite()(*args, **kwargs)

        def patch_tensor(tensor, scope, patch=interpreter._patch_lang_tensor):
            """And let a tensor of one element be an index: Triton 3.6's own way fails with NumPy 2.4."""
            patch(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

        interpreter.InterpretedFunction.__call__ = call
        interpreter._patch_lang_tensor = patch_tensor


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A user's folder: 7 classes of two colours and a size, 6 pictures each, 2 classes unseen."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    rows = ["class,red,green,blue,large"]
    for k in range(7):
        attributes = [k + 1 & 1, (k + 1) >> 1 & 1, (k + 1) >> 2 & 1, k % 2]
        rows.append(f"class {k}," + ",".join(map(str, attributes)))
        folder = root / "images" / f"class {k}"
        folder.mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 60, (24, 32, 3), dtype=np.uint8)
            side = 8 if attributes[3] else 4
            pixels[8 : 8 + side, 8 : 8 + side] += np.uint8(150) * np.array(attributes[:3], np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    (root / "attributes.csv").write_text("\n".join(rows) + "\n")
    (root / "unseen.txt").write_text("class 4\nclass 5\n")
    return root


@pytest.fixture(scope="session")
def demo():
    """Takes seconds to draw."""
    return load_demo()
