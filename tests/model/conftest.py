"""Tiny data, networks and options for tests of training and testing."""

import copy
import json

import cv2
import pytest
import torch
from basicsr.utils import get_root_logger, img2tensor, tensor2img

from segsr_arch.layers.resize import imresize
from tests import ROOT

SAMPLE = ROOT / 'datasets' / 'sample' / 'Images'
CLIP = {'embed_dim': 32, 'vision_cfg': {'image_size': 32, 'patch_size': 8, 'layers': 2, 'width': 64, 'head_width': 16},
        'text_cfg': {'context_length': 8, 'vocab_size': 16, 'width': 32, 'heads': 2, 'layers': 1}}


@pytest.fixture(scope='session')
def clip_config(tmp_path_factory):
    """Path of a small CLIP's model config."""
    path = tmp_path_factory.mktemp('clip') / 'small.json'
    path.write_text(json.dumps(CLIP))
    return path


@pytest.fixture(scope='session')
def clip_weights(clip_config):
    """Path of weights of the small CLIP's image tower."""
    from open_clip.model import _build_vision_tower
    with torch.random.fork_rng():
        torch.manual_seed(1)
        path = clip_config.with_name('small.pt')
        torch.save(_build_vision_tower(CLIP['embed_dim'], CLIP['vision_cfg']).state_dict(), path)
    return path


@pytest.fixture(scope='session')
def pairs(tmp_path_factory):
    """Folder with HR (64 x 64) and LR (x4) crops of two meadow and two woodland tiles."""
    root = tmp_path_factory.mktemp('pairs')
    for name in ('meadow00', 'meadow01', 'woodland00', 'woodland01'):
        hr = cv2.imread(str(SAMPLE / name[:-2] / f'{name}.png'))[:64, :64]
        lr = tensor2img(imresize(img2tensor(hr / 255.0)[None], 0.25))
        for kind, image in (('HR', hr), ('LR', lr)):
            (root / kind).mkdir(exist_ok=True)
            cv2.imwrite(str(root / kind / f'{name}.png'), image)
    return root


@pytest.fixture
def network(clip_config, clip_weights):
    """``network_g`` of a small guided EDSR with a tower that can be found again."""
    return {
        'type': 'SeGSR_EDSR', 'upscale': 4, 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 16, 'num_block': 4,
        'num_units': 2,
        'semantic': {'encoder': {'model': str(clip_config), 'pretrained': str(clip_weights), 'lora_rank': 4}}}


@pytest.fixture
def options(tmp_path, network, pairs):
    """BasicSR options as ``parse_options`` returns them for training."""
    folders = {k: str(tmp_path / k) for k in ('models', 'training_states', 'visualization')}
    (tmp_path / 'training_states').mkdir()
    dataset = {'name': 'pairs', 'type': 'PairedImageDataset', 'dataroot_gt': str(pairs / 'HR'),
               'dataroot_lq': str(pairs / 'LR'), 'io_backend': {'type': 'disk'}, 'scale': 4}
    psnr = {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True}
    return {
        'name': 'run', 'model_type': 'SemanticGuidedSRModel', 'scale': 4, 'num_gpu': 0, 'is_train': True, 'dist': False,
        'rank': 0, 'world_size': 1, 'manual_seed': 0, 'auto_resume': False, 'root_path': str(tmp_path),
        'datasets': {
            'train': {**copy.deepcopy(dataset), 'phase': 'train', 'gt_size': 32, 'use_hflip': True, 'use_rot': True,
                      'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2},
            'val': {**copy.deepcopy(dataset), 'phase': 'val'}},
        'network_g': network,
        'path': {'pretrain_network_g': None, 'results_root': str(tmp_path), **folders},
        'train': {
            'ema_decay': 0.9,
            'optim_g': {'type': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [4], 'gamma': 0.5},
            'total_iter': 8,
            'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}},
        'val': {'val_freq': 4, 'save_img': False,
                'metrics': {'psnr': psnr, 'ssim': {**psnr, 'type': 'calculate_ssim'}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 4, 'use_tb_logger': False}}


@pytest.fixture
def log(caplog):
    """What BasicSR's logger has said, at INFO and above."""
    logger = get_root_logger()
    logger.addHandler(caplog.handler)
    caplog.set_level('INFO', 'basicsr')
    yield caplog
    logger.removeHandler(caplog.handler)
