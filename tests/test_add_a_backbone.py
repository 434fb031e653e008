"""docs/add_a_backbone.md: its code makes a network of one's own guidable."""

import re
import types

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY

from segsr_arch.options import OptionError
from segsr_model.option_files import compose
from segsr_model.weights.loading import load_weights
from tests import ROOT
from tests.conftest import SMALL

TEXT = (ROOT / 'docs' / 'add_a_backbone.md').read_text(encoding='utf-8')
ADAPTER, CHECK = re.findall(r'^```python\n(.*?)^```', TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def module(monkeypatch):
    """A module of the text's adapter, as in a file of its own."""
    monkeypatch.setattr(ARCH_REGISTRY, '_obj_map', dict(ARCH_REGISTRY._obj_map))
    module = types.ModuleType('my_segsr_arch')
    exec(compile(ADAPTER, 'docs/add_a_backbone.md', 'exec'), module.__dict__)
    return module


def test_the_texts_own_check_succeeds(module):
    exec(compile(CHECK, 'docs/add_a_backbone.md', 'exec'), dict(module.__dict__))


def test_it_is_built_guided_and_warm_started(module, encoder):
    options = {'type': 'SeGSR_Mine', 'upscale': 2, 'num_units': 2, 'semantic': {'encoder': encoder()},
               **SMALL['SeGSR_SwinIR']}
    net, stock = build_network(options).eval(), build_network(
        {'type': 'SwinIR', 'upscale': 2, **SMALL['SeGSR_SwinIR']})
    report = load_weights(net, stock.state_dict())
    assert report.warm_start and not report.unused and not report.reshaped
    assert {name.split('.')[0] for name in report.new} == {'guidance'}
    lr = torch.rand(1, 3, 5, 7)
    with torch.no_grad():
        assert net(lr).shape == (1, 3, 10, 14) and net.guidance_maps(lr).shape == (1, 2, 5, 7)
    with pytest.raises(OptionError, match="unknown option 'embed_dims'; did you mean 'embed_dim'"):
        build_network({**options, 'embed_dims': 12})
    with pytest.raises(OptionError, match='num_units: 3 does not divide the 2 groups'):
        build_network({**options, 'num_units': 3})


def test_its_option_file_is_one(tmp_path):
    text = re.search(r'^```yaml\n(.*?)^```', TEXT, re.DOTALL | re.MULTILINE)[1]
    file = tmp_path / 'mine.yml'
    file.write_text(text.replace('base/', f'{ROOT}/options/base/'), encoding='utf-8')
    options, _ = compose(file)
    assert options['network_g']['type'] == 'SeGSR_Mine' and options['network_g']['semantic']['guidance'] == 'map'
    assert options['datasets']['train']['gt_size'] == 256
