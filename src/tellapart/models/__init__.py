"""Models: plain `torch.nn.Module`s, a table of them by name, and those of timm and torchvision by prefix."""

from __future__ import annotations

from tellapart.models.blocks import ConvBlock, conv_output_size
from tellapart.models.cnn import CIFAR10_CNN, CNN
from tellapart.models.create import MODELS, create_model, model_description
from tellapart.models.external import is_external, pretrained_license, pretrained_normalization
from tellapart.models.mlp import MLP, SimpleModel
from tellapart.models.resnet import ResNet, cifar_resnet, imagenet_resnet
from tellapart.models.summary import LayerRow, ModelSummary, summary

__all__ = [
    "CIFAR10_CNN",
    "CNN",
    "MLP",
    "MODELS",
    "ConvBlock",
    "LayerRow",
    "ModelSummary",
    "ResNet",
    "SimpleModel",
    "cifar_resnet",
    "conv_output_size",
    "create_model",
    "imagenet_resnet",
    "is_external",
    "model_description",
    "pretrained_license",
    "pretrained_normalization",
    "summary",
]
