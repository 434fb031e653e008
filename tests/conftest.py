"""Fixtures shared by all tests: a tiny CLIP in every file format, small networks, downloads that fail."""

import os

os.environ['HF_HUB_OFFLINE'] = '1'  # nothing is fetched: said before anything imports the hub's package

import segsr_arch  # isort: skip  (first, so that basicsr is mended before anything imports it)

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from torch import nn

REFERENCE = Path(__file__).parent / 'reference'

TINY_CLIP = {
    'embed_dim': 32,
    'vision_cfg': {'image_size': 32, 'layers': 2, 'width': 64, 'patch_size': 8, 'head_width': 16},
    'text_cfg': {'context_length': 8, 'vocab_size': 64, 'width': 16, 'heads': 2, 'layers': 1},
}

SWIN = {'embed_dim': 12, 'depths': [2, 2], 'num_heads': [2, 2], 'window_size': 4, 'img_size': 8, 'mlp_ratio': 2,
        'drop_path_rate': 0.0}

# a small network per backbone, with at least two ways to cut it into units
SMALL = {
    'SeGSR_HAT': {**SWIN, 'compress_ratio': 3, 'squeeze_factor': 1},
    'SeGSR_EDSR': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 4},
    'SeGSR_RCAN': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_group': 4, 'num_block': 1,
                   'squeeze_factor': 1},
    'SeGSR_SRFormer': SWIN,
    'SeGSR_SwinIR': {**SWIN, 'upsampler': 'pixelshuffle'},
    'SeGSR_TTST': {**SWIN, 'conv_scale': 0.1},
}


torch.set_num_threads(1)  # the networks are so small that threads cost more than they save


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in every test, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture
def no_network(monkeypatch):
    """open_clip's downloads fail as they do without a network, and are counted."""
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        raise ConnectionError('name resolution failed\nsecond line of the report')

    for name in ('download_pretrained', 'download_pretrained_from_url', 'download_pretrained_from_hf'):
        monkeypatch.setattr(f'open_clip.pretrained.{name}', fail)
    return calls


@pytest.fixture(scope='session')
def golden():
    """Small HAT configurations with the official implementation's weights and outputs."""
    return torch.load(REFERENCE / 'hat_golden.pt', weights_only=True)


@pytest.fixture(scope='session')
def manifest():
    """Keys and shapes of the official HAT x4."""
    return json.loads((REFERENCE / 'hat_x4_state_dict_manifest.json').read_text(encoding='utf-8'))


class OpenAIArchive(nn.Module):
    """What OpenAI's TorchScript archives hold: the whole CLIP, and three numbers among its weights."""

    def __init__(self, clip):
        super().__init__()
        self.visual = clip.visual
        self.transformer = clip.transformer
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.logit_scale = clip.logit_scale
        for name, value in (('input_resolution', 32), ('context_length', 8), ('vocab_size', 64)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, image):
        return self.visual(image)


@pytest.fixture(scope='session')
def tiny_clip(tmp_path_factory):
    """A tiny CLIP with weights that differ from any initialisation, saved in every format.

    Attributes: ``config``, ``model`` and ``model_quickgelu`` (paths of its model configs), ``clip`` (open_clip's own
    model, GELU), ``quick`` (the same weights, QuickGELU), ``files`` (name -> path), ``weights`` (the usual file).
    """
    from safetensors.torch import save_file
    folder = tmp_path_factory.mktemp('tiny_clip')
    with torch.random.fork_rng():
        torch.manual_seed(2024)
        clip = open_clip.CLIP(**copy.deepcopy(TINY_CLIP)).eval().requires_grad_(False)
        for p in clip.parameters():
            p.add_(0.05 * torch.randn_like(p))
            p.copy_(p.half())  # so that a half precision file holds the same weights
        quick = open_clip.CLIP(**copy.deepcopy(TINY_CLIP), quick_gelu=True).eval().requires_grad_(False)
    quick.load_state_dict(clip.state_dict())

    state = {k: v.clone() for k, v in clip.state_dict().items()}
    half = {k: v.half() for k, v in state.items()}
    archive = OpenAIArchive(copy.deepcopy(clip)).eval()
    files = {
        'open_clip.pt': state,
        'fp16.pt': half,
        'training.pt': {'epoch': 3, 'name': 'run', 'state_dict': {f'module.{k}': v for k, v in state.items()}},
        'state_dict.pt': {'state_dict': state},
        'module.pt': {f'module.{k}': v for k, v in state.items()},
        'tower.pt': {k[len('visual.'):]: v for k, v in state.items() if k.startswith('visual.')},
        'openai_state.pt': archive.state_dict(),
        'legacy.pt': state,
    }
    for name, content in files.items():
        torch.save(content, folder / name, _use_new_zipfile_serialization=name != 'legacy.pt')
    save_file(state, str(folder / 'open_clip.safetensors'))
    save_file(half, str(folder / 'fp16.safetensors'))
    save_file(files['tower.pt'], str(folder / 'tower.safetensors'))
    torch.jit.trace(archive, torch.rand(1, 3, 32, 32), check_trace=False).save(str(folder / 'openai.pt'))
    torch.jit.trace(archive, torch.rand(1, 3, 32, 32), check_trace=False).half().save(str(folder / 'openai_fp16.pt'))
    for name, config in (('tiny.json', TINY_CLIP), ('tiny-quickgelu.json', {**TINY_CLIP, 'quick_gelu': True})):
        (folder / name).write_text(json.dumps(config), encoding='utf-8')
    return SimpleNamespace(
        config=copy.deepcopy(TINY_CLIP), model=str(folder / 'tiny.json'), clip=clip, quick=quick,
        model_quickgelu=str(folder / 'tiny-quickgelu.json'), weights=str(folder / 'open_clip.pt'),
        files={path.name: str(path) for path in folder.iterdir() if path.suffix != '.json'})


@pytest.fixture
def encoder(tiny_clip):
    """Makes the options of an encoder: the tiny CLIP with rank 4, and what is given."""
    def make(**options):
        return {'model': tiny_clip.model, 'pretrained': tiny_clip.weights, 'lora_rank': 4, **options}
    return make


@pytest.fixture
def network_options(encoder):
    """Makes the options of a small network, e.g. ``network_options('SeGSR_HAT', guidance='add', upscale=3)``."""
    def make(name, *, guidance='map', upscale=4, num_units=2, encoder_options=None, localization=None, **backbone):
        semantic = {'guidance': guidance, 'encoder': encoder(**(encoder_options or {}))}
        if localization is not None:
            semantic['localization'] = localization
        return copy.deepcopy({**SMALL[name], 'upscale': upscale, 'num_units': num_units, 'semantic': semantic,
                              **backbone})
    return make


@pytest.fixture
def options(network_options):
    """The same, where no other options are at hand."""
    return network_options


@pytest.fixture
def backbone_options():
    """Makes the options of a stock backbone: those of a small network without units and semantics."""
    def make(name, **changes):
        return copy.deepcopy({**SMALL[name], **changes})
    return make


@pytest.fixture
def build(network_options):
    """Builds a small network as after some training: whatever starts at 0 has moved. ``fresh=True``: as built."""
    def make(name, *, fresh=False, **changes):
        network = getattr(segsr_arch, name)(**network_options(name, **changes))
        if not fresh:
            with torch.no_grad():
                for p in network.parameters():
                    if p.requires_grad:
                        p.add_(0.05 * torch.randn_like(p))
        return network.eval()
    return make
