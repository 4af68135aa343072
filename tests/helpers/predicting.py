"""Networks with random weights for the tests of prediction, and their images."""

import numpy as np

from wsss_fast import amn, cam, cli, eps, nets, seg

OPTIONS = {"precision": "fp32"}
NETWORKS = {
    "seg": (nets.deeplab, seg.RECIPES["small"], {"head": "aspp", "scales": (0.5, 0.75)}),
    "cam": (nets.cam_resnet50, cam.RECIPES["small"], {}),
    "amn": (nets.amn_resnet50, amn.RECIPES["small"], {"condition_at": "layer4"}),
    "eps": (nets.eps_resnet38, eps.RECIPES["small"], {}),
}


def run(*words):
    return cli.run(["predict", *map(str, words)])


def names_of(few, id):
    return [few.classes[c] for c in np.flatnonzero(few.tags_of(id))]
