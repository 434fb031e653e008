"""SRFormer against the official implementation's outputs and its key list."""

import io

import pytest
import torch

from segsr_arch.baselines.srformer_arch import SRFormer
from tests.arch.baselines.contract import WindowedContract
from tests.arch.baselines.golden import golden


class TestSRFormer(WindowedContract):
    network, files = SRFormer, 'srformer'

    @pytest.mark.parametrize(('options', 'words'), [
        ({'window_size': 5}, 'window_size is 5, must be even'),
        ({'embed_dim': 18}, 'embed_dim is 18, must be a multiple of 4')])
    def test_its_own_options_that_cannot_be_used(self, options, words):
        with pytest.raises(ValueError, match=f'^SRFormer: {words}'):
            SRFormer(**{**self.small, **options})

    def test_the_feed_forward_part_sees_the_neighbourhood_across_windows(self):
        mlp, x = self.build().layers[0].residual_group.blocks[1].mlp, torch.rand(1, 8, 8, 12)
        with torch.no_grad():
            out = mlp(x)
            x[0, 3, 3] += 1
            changed = (mlp(x) != out).any(-1)[0]
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[1:6, 1:6] = True
        assert torch.equal(changed, expected)

    def test_what_is_computed_is_saved_once_and_disregarded_on_loading(self):
        net, file = self.build(depths=[4], num_heads=[2]), io.BytesIO()
        torch.save(net.state_dict(), file)
        computed = net.computed()
        assert {key.rsplit('.', 1)[-1] for key in computed} == {'aligned_relative_position_index', 'attn_mask'}
        assert len({value.untyped_storage().data_ptr() for value in computed.values()}) == 2 < len(computed) == 6
        for prefix, wrapped in (('', net), ('0.', torch.nn.Sequential(net))):
            weights = {prefix + key: value for key, value in net.state_dict().items()}
            weights.update({prefix + key: value[..., :1] + 7 for key, value in computed.items()})  # of another size
            wrapped.load_state_dict(weights, strict=True)
            wrapped.load_state_dict({key: value for key, value in weights.items()
                                     if key.removeprefix(prefix) not in computed}, strict=True)
        assert all(torch.equal(value, computed[key]) for key, value in net.computed().items())
        with pytest.raises(RuntimeError, match=r'layers\.0\.residual_group\.blocks\.0\.attn_mask'):  # is not shifted
            net.load_state_dict({**net.state_dict(), 'layers.0.residual_group.blocks.0.attn_mask': torch.zeros(1)})

    def test_without_shifts_there_are_no_masks(self):
        assert not any(key.endswith('attn_mask') for key in self.build(img_size=4).state_dict())


@pytest.mark.parametrize('i', [0, 1])
def test_masks_of_files_from_before_july_2023_are_disregarded(i):
    case = golden('srformer')['cases'][i]
    old = case['stored_mask']
    net = SRFormer(**case['config']).eval()
    net.load_state_dict({**case['state_dict'], **old['masks']}, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(net(old['input']), old['output_with_recomputed_mask'], rtol=0, atol=1e-5)
