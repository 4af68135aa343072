"""A few training steps of a single-stage method, written as such projects write them.

The network learns classes from tags; its class activation maps, refined by PAR, are the pseudo
labels of its own segmentation, which the dense energy loss regularises.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from model.PAR import PAR
from utils.camutils import refine_cams_with_bkg_v2
from utils.losses import DenseEnergyLoss, get_energy_loss, segmentation_loss

SIZE, CLASSES = 40, 3


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
        )
        self.classifier = nn.Conv2d(16, CLASSES, 1, bias=False)
        self.decoder = nn.Conv2d(16, CLASSES + 1, 1)

    def forward(self, images):
        maps = F.relu(self.features(images))
        cams = self.classifier(maps)
        segs = F.interpolate(self.decoder(maps), images.shape[2:], mode="bilinear")
        return cams.mean((2, 3)), cams.detach(), segs


def load_batch():
    """Two images, each with a coloured square, normalised; their tags; their boxes."""
    generator = torch.Generator().manual_seed(0)
    levels = 90 + 12 * torch.randn(2, 3, SIZE, SIZE, generator=generator)
    tags = torch.zeros(2, CLASSES)
    for i, (colour, top, left) in enumerate([(0, 8, 6), (2, 14, 16)]):
        levels[i, colour, top : top + 18, left : left + 18] += 120
        tags[i, colour] = 1
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
    )
    boxes = torch.tensor([[0, SIZE, 0, SIZE], [4, SIZE, 2, SIZE - 4]])
    return (levels.clamp(0, 255) - mean) / std, levels.clamp(0, 255), tags, boxes


def main(steps=8, energy_weight=1e-5):
    torch.manual_seed(0)
    net = Network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    par = PAR(num_iter=10, dilations=[1, 2, 4, 8, 12, 24])
    energy_layer = DenseEnergyLoss(
        weight=energy_weight, sigma_rgb=15, sigma_xy=100, scale_factor=0.5
    )
    images, levels, tags, boxes = load_batch()
    history = []
    for _ in range(steps):
        scores, cams, segs = net(images)
        cls_loss = F.multilabel_soft_margin_loss(scores, tags)
        cams = F.relu(F.interpolate(cams, (SIZE, SIZE), mode="bilinear"))
        cams = cams / (cams.amax((2, 3), keepdim=True) + 1e-5)
        pseudo_label = refine_cams_with_bkg_v2(
            par,
            levels,
            cams=cams,
            cls_labels=tags,
            high_thre=0.6,
            low_thre=0.3,
            ignore_index=255,
            img_box=boxes,
        )
        energy_loss = get_energy_loss(images, segs, pseudo_label, boxes, energy_layer)
        (energy_grad,) = torch.autograd.grad(energy_loss, segs, retain_graph=True)
        loss = cls_loss + segmentation_loss(segs, pseudo_label) + energy_loss
        history.append((loss.item(), energy_loss.item(), pseudo_label, energy_grad))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return history


if __name__ == "__main__":
    for number, (total, energy, *_) in enumerate(main()):
        print(number, total, energy)
