"""Data sets: `load_dataset` reads and checks one, `ImageDataset` turns its images into tensors."""

from .base import ImageSource, ValidationSplit, ZSLData, validation_split
from .demo import load_demo
from .pixels import ImageDataset, ImageFiles, ResizedImages

__all__ = [
    "ImageDataset",
    "ImageFiles",
    "ImageSource",
    "ResizedImages",
    "ValidationSplit",
    "ZSLData",
    "load_demo",
    "validation_split",
]
