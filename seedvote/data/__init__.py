"""Data sets as tensors: what ``data._target_`` names, and what prepares it."""

from seedvote.data.arrays import arrays
from seedvote.data.builtin import digits, torchvision_dataset
from seedvote.data.image_files import decode_image
from seedvote.data.image_folder import image_folder
from seedvote.data.new_inputs import read_arrays, read_image_folder
from seedvote.data.normalization import network_inputs, normalized
from seedvote.data.pieces import Pieces
from seedvote.data.prepare import prepare
from seedvote.data.preprocessing import evaluation_inputs, fitted, preprocessed, training_inputs

__all__ = [
    "Pieces",
    "arrays",
    "decode_image",
    "digits",
    "evaluation_inputs",
    "fitted",
    "image_folder",
    "network_inputs",
    "normalized",
    "prepare",
    "preprocessed",
    "read_arrays",
    "read_image_folder",
    "torchvision_dataset",
    "training_inputs",
]
