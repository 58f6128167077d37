"""word2vec's binary format, written out."""

from pathlib import Path

import numpy as np


def write_word2vec(path: Path, vectors: dict[str, np.ndarray]) -> Path:
    """Write word2vec's binary format: a line of two counts, then each word, a space, its float32 numbers, a newline."""
    numbers = len(next(iter(vectors.values())))
    with path.open("wb") as file:
        file.write(f"{len(vectors)} {numbers}\n".encode())
        for word, vector in vectors.items():
            file.write(word.encode() + b" " + np.asarray(vector, "<f4").tobytes() + b"\n")
    return path
