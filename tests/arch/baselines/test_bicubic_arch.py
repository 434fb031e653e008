"""The Bicubic network against BasicSR's MATLAB-like imresize."""

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.matlab_functions import imresize

from segsr_arch import Bicubic


@pytest.mark.parametrize('upscale', [2, 3, 4, 8])
@pytest.mark.parametrize('size', [(16, 16), (9, 21), (5, 4)])
def test_equals_basicsr(upscale, size):
    lr = torch.rand(2, 3, *size)
    hr = Bicubic(upscale=upscale)(lr)
    for image, expected in zip(hr, lr):
        torch.testing.assert_close(image, imresize(expected, upscale), rtol=0, atol=1e-5)


def test_has_no_weights_and_is_registered():
    net = build_network({'type': 'Bicubic', 'upscale': 2})
    assert isinstance(net, Bicubic)
    assert not net.state_dict() and not list(net.parameters())
