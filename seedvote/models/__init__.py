"""Networks. None of them knows a seed: weights are drawn from whatever generator is current.

Every builder takes ``input_shape`` (one sample, without the batch axis) and ``n_classes`` first, and returns a
module that maps ``[B, *input_shape]`` to logits ``[B, C]``.
"""

from seedvote.models.classic import lenet, mlp
from seedvote.models.constrained_time import constrained_time_cnn
from seedvote.models.dense import DenseLayer, densenet
from seedvote.models.pieces import image_shape
from seedvote.models.residual import ResidualBlock, resnet
from seedvote.models.sequences import LastStep, recurrent
from seedvote.models.vision import GreyToColour, torchvision_model

__all__ = [
    "DenseLayer",
    "GreyToColour",
    "LastStep",
    "ResidualBlock",
    "constrained_time_cnn",
    "densenet",
    "image_shape",
    "lenet",
    "mlp",
    "recurrent",
    "resnet",
    "torchvision_model",
]
