"""Networks: constructors by name, and weights from this package's and public files."""

from wsss_fast.nets.constructors import (
    BACKBONES,
    SALIENCY_BACKBONES,
    SEGMENTATION_BACKBONES,
    SEGMENTATION_HEADS,
    amn_resnet50,
    cam_classifier,
    cam_resnet38,
    cam_resnet50,
    check,
    check_file,
    deeplab,
    deeplabv2_resnet101,
    eps_resnet38,
    irn_resnet50,
)
from wsss_fast.nets.deeplab import DeepLab, DeepLabV2
from wsss_fast.nets.heads import AmnNet, CamNet, EpsNet
from wsss_fast.nets.inference import optimize_for_inference
from wsss_fast.nets.irn import IrnNet
from wsss_fast.nets.model_file import (
    ModelInfo,
    is_model_of,
    load_model,
    model_info,
    read_info,
    save_model,
)
from wsss_fast.nets.names import public_state_dict
from wsss_fast.nets.weights import fingerprint, load_weights, save_weights

__all__ = [
    "AmnNet",
    "BACKBONES",
    "CamNet",
    "DeepLab",
    "DeepLabV2",
    "EpsNet",
    "IrnNet",
    "ModelInfo",
    "SALIENCY_BACKBONES",
    "SEGMENTATION_BACKBONES",
    "SEGMENTATION_HEADS",
    "amn_resnet50",
    "cam_classifier",
    "cam_resnet38",
    "cam_resnet50",
    "check",
    "check_file",
    "deeplab",
    "deeplabv2_resnet101",
    "eps_resnet38",
    "fingerprint",
    "irn_resnet50",
    "is_model_of",
    "load_model",
    "load_weights",
    "model_info",
    "optimize_for_inference",
    "public_state_dict",
    "read_info",
    "save_model",
    "save_weights",
]
