"""Data: sources of labelled images, their division, and batches of them."""

from __future__ import annotations

from tellapart.data.augment import AUGMENTATIONS, MIXES, Augment, Mix
from tellapart.data.dataset import ArrayDataset, Loaders, SourceDataset, make_loaders
from tellapart.data.loader import Batch, MemoryLoader, WorkerLoader
from tellapart.data.preprocess import Preprocess
from tellapart.data.sources import DATASETS, Source, open_source
from tellapart.data.splits import Split, make_split
from tellapart.data.transforms import TRAIN_TRANSFORMS, eval_transform, train_transform

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "MIXES",
    "TRAIN_TRANSFORMS",
    "ArrayDataset",
    "Augment",
    "Batch",
    "Loaders",
    "MemoryLoader",
    "Mix",
    "Preprocess",
    "Source",
    "SourceDataset",
    "Split",
    "WorkerLoader",
    "eval_transform",
    "make_loaders",
    "make_split",
    "open_source",
    "train_transform",
]
