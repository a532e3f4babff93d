"""Images: read, checked, cached, and prepared for a network."""

from bbo.data.augmentation import augment, normalize
from bbo.data.datasets import load_dataset

__all__ = ["augment", "load_dataset", "normalize"]
