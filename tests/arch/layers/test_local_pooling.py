"""Pooling over a window around each pixel."""

import pytest
import torch
from basicsr.archs.rcan_arch import RCAN

from segsr_arch.layers.local_pooling import LocalMean, pool_locally


@pytest.mark.parametrize('size', [(9, 14), (3, 12), (12, 2)])
def test_values(size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    expected = torch.empty_like(x)
    for i in range(size[0]):
        for j in range(size[1]):
            top, left = (min(max(0, k - 2), max(0, side - 5)) for k, side in zip((i, j), size))
            expected[..., i, j] = x[..., top:top + 5, left:left + 5].mean((-2, -1))
    torch.testing.assert_close(LocalMean(5)(x).expand_as(x), expected)


def test_a_network_is_the_same_on_a_patch_and_local_on_a_scene():
    net = RCAN(3, 3, num_feat=8, num_group=1, num_block=1, squeeze_factor=2, upscale=2).eval()
    patch, scene = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 80)
    with torch.no_grad():
        before = net(patch)
        assert pool_locally(net, 16) == 1
        torch.testing.assert_close(net(patch), before)
        whole, changed = net(scene), scene.clone()
        changed[..., 70:] = 0  # farther than window and convolutions reach
        torch.testing.assert_close(net(changed)[..., :80], whole[..., :80])
        assert pool_locally(net, 16) == 0
