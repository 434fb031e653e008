"""What the tests of stored weights share."""

import io

import torch

TOWER = 'guidance.sfem.visual.'
LR = torch.linspace(0, 1, 3 * 7 * 9).view(1, 3, 7, 9)


def saved(state):
    """Through a file and back, as safely as BasicSR's checkpoints can be read."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def output(net):
    with torch.no_grad():
        return net(LR)
