"""TTST against the official implementation's outputs and its key list, and its selections against their definition."""

import pytest
import torch

from segsr_arch.baselines.ttst_arch import TTST, TopKAttention, correlations
from segsr_arch.layers.window_attention import windows_of
from tests.arch.baselines.contract import WindowedContract


class TestTTST(WindowedContract):
    network, files = TTST, 'ttst'

    @pytest.mark.parametrize(('options', 'words'), [
        ({'overlap_ratio': 0.3}, r'window_size 4 \* overlap_ratio 0.3 must be even'),
        ({'num_heads': [2, 12]}, 'num_heads is 12; with embed_dim 12 it must be at most 6')])
    def test_its_own_options_that_cannot_be_used(self, options, words):
        with pytest.raises(ValueError, match=f'^TTST: {words}'):
            TTST(**{**self.small, **options})

    def test_options_without_effect(self):
        net, lr = self.build(), torch.rand(1, 3, 8, 8)
        other = TTST(**self.small, compress_ratio=5, squeeze_factor=7, img_range=255.0).eval()
        other.load_state_dict(net.state_dict())
        with torch.no_grad():
            assert torch.equal(net(lr), other(lr))

    def test_the_channel_attention_is_never_dropped(self):
        net = self.build(drop_path_rate=1.0).train()
        block, x = net.layers[-1].residual_group.blocks[-1], torch.rand(2, 8, 8, 12)
        with torch.no_grad():
            torch.testing.assert_close(block(x, net.relative_position_index_SA, windows_of(x, 4, 0)),
                                       x + block.conv_block(block.norm1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def largest(row, k):
    """Softmax of the k largest of a row, the others 0."""
    kept = sorted(range(len(row)), key=lambda i: row[i], reverse=True)[:k]
    weights = torch.zeros(len(row))
    weights[kept] = torch.softmax(torch.tensor([row[i] for i in kept]), 0)
    return weights


@pytest.mark.parametrize(('dim', 'kept'), [(60, (15, 20, 22, 24)), (10, (2, 3, 3, 4)), (4, (1, 1, 1, 1))])
def test_selections_equal_their_definition(dim, kept):
    """By sign, not by magnitude; along rows; as many as the shares say, rounded down."""
    attention, scores = TopKAttention(dim, 2, True, 1.0), torch.randn(2, 2, dim // 2, dim // 2)
    parts = [0.3, -0.5, 0.7, 0.11]
    for i, part in enumerate(parts):
        getattr(attention, f'attn{i + 1}').data.fill_(part)
    expected = torch.stack([sum(part * largest(row.tolist(), k) for part, k in zip(parts, kept))
                            for row in scores.flatten(0, 2)]).view_as(scores)
    with torch.no_grad():
        torch.testing.assert_close(attention.selected(scores), expected)


def test_equal_scores_do_not_make_a_selection_larger():
    attention = TopKAttention(20, 2, True, 1.0)
    for i in range(4):
        getattr(attention, f'attn{i + 1}').data.fill_(float(i == 0))
    with torch.no_grad():
        weights = attention.selected(torch.zeros(1, 2, 10, 10))
    assert ((weights > 0).sum(-1) == 5).all()


def test_channels_of_zeros_and_half_precision():
    attention, x = TopKAttention(12, 2, False, 1.0), torch.rand(1, 12, 4, 4)
    with torch.no_grad():
        attention.qkv_dwconv.weight[:2] = 0
    x.requires_grad_()
    attention(x).sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in attention.parameters())
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.float16):
        q = torch.full((1, 900, 2, 6), 300.0, dtype=torch.float16)  # whose squares are beyond the range of fp16
        torch.testing.assert_close(correlations(q, q), torch.ones(1, 2, 6, 6), rtol=1e-2, atol=0)
