"""The guidance maps of a scene: those of the network where it is one window, else the same however it is cut."""

import pytest
import torch

from segsr_model.scenes.semantics import Semantics, scene_descriptor
from segsr_model.scenes.tiles import Span


@pytest.fixture
def net(build):
    return build('SeGSR_EDSR', upscale=4)


def semantics_of(net, scene, descriptor=None):
    def read(rows, columns):
        return scene[..., slice(*rows), slice(*columns)]

    semantics = Semantics(net, *scene.shape[-2:], window=16, scene=descriptor)
    rows = [semantics.look(read, i) for i in range(len(semantics.rows))]
    return semantics, rows.__getitem__


def whole(length):
    return Span(0, length)


@pytest.mark.parametrize('size', [(16, 16), (9, 13), (16, 5)])
def test_a_scene_of_one_window_has_the_networks_maps(net, size):
    scene = torch.rand(1, 3, *size)
    semantics, rows = semantics_of(net, scene)
    torch.testing.assert_close(semantics.maps(rows, *map(whole, size)), net.guidance_maps(scene), atol=1e-6, rtol=0)


@pytest.mark.parametrize('upscale', [2, 3, 4])
def test_a_part_is_a_part_of_the_whole(build, upscale):
    net = build('SeGSR_EDSR', upscale=upscale)
    semantics, rows = semantics_of(net, torch.rand(1, 3, 53, 78))
    maps = semantics.maps(rows, whole(53), whole(78))
    assert maps.shape == (1, 2, 53, 78)
    for part in [(Span(0, 9), Span(70, 78)), (Span(17, 41), Span(3, 30)), (Span(52, 53), Span(0, 1))]:
        torch.testing.assert_close(semantics.maps(rows, *part), maps[..., slice(*part[0]), slice(*part[1])], atol=1e-6,
                                   rtol=0)


def test_where_two_windows_meet_nothing_jumps(net):
    """Against what the network sees of two halves, whose maps differ where they meet."""
    scene = torch.rand(1, 3, 16, 64)
    semantics, rows = semantics_of(net, scene)
    maps = semantics.maps(rows, whole(16), whole(64))
    halves = torch.cat([net.guidance_maps(scene[..., :32]), net.guidance_maps(scene[..., 32:])], -1)
    jumps = [(x[..., 32] - x[..., 31]).abs().max() for x in (maps, halves)]
    assert jumps[0] < 0.5 * jumps[1]


def test_the_descriptor_of_a_scene_stands_for_that_of_its_windows(net):
    scene = torch.rand(1, 3, 16, 40)
    descriptor = scene_descriptor(net, lambda rows, columns: scene[..., slice(*rows), slice(*columns)], 16, 40,
                                  window=16)
    reduced = torch.nn.functional.avg_pool2d(scene, 3, ceil_mode=True)
    torch.testing.assert_close(descriptor, net.semantics(reduced)[0], atol=1e-5, rtol=0)
    semantics, rows = semantics_of(net, scene, descriptor)
    expected = net.guidance.slm(descriptor, net.semantics(scene[..., :16])[1])[0]
    torch.testing.assert_close(rows(0)[..., :2], expected[..., :2], atol=1e-6, rtol=0)  # the first window's alone
