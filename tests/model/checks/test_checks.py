"""Options are checked before anything starts, and all that is wrong is reported at once."""

import copy
import importlib.util
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import basicsr.utils.logger
import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.utils import options as basicsr_options
from PIL import Image

from segsr_model.checks import ProblemsError, check_options, report
from segsr_model.checks.command import problems_of
from segsr_model.cli import main
from segsr_model.option_files import compose
from tests import ROOT

OPTIONS = ROOT / 'options'
PARTS = {'base.yml', 'EDSR.yml', 'HAT.yml', 'SeGSR.yml'}
FILES = sorted(str(path.relative_to(OPTIONS)) for path in OPTIONS.glob('**/*.yml')
               if path.parent.name != 'base' and path.name not in PARTS)
Usage = namedtuple('Usage', 'total used free')

EDSR_TRAINING = """
name: 206_EDSR_Lx4_f256b32_DIV2K_300k_B16G1_204pretrain_wandb
model_type: SRModel
scale: 4
num_gpu: 1
manual_seed: 10
datasets:
  train:
    name: DIV2K
    type: PairedImageDataset
    dataroot_gt: datasets/DIV2K/DIV2K_train_HR_sub
    dataroot_lq: datasets/DIV2K/DIV2K_train_LR_bicubic_X4_sub
    filename_tmpl: '{}'
    io_backend: {type: disk}
    gt_size: 192
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 16
    dataset_enlarge_ratio: 100
    prefetch_mode: ~
  val:
    name: Set5
    type: PairedImageDataset
    dataroot_gt: datasets/Set5/GTmod12
    dataroot_lq: datasets/Set5/LRbicx4
    io_backend: {type: disk}
network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 256, num_block: 32, upscale: 4, res_scale: 0.1,
            img_range: 255., rgb_mean: [0.4488, 0.4371, 0.4040]}
path: {pretrain_network_g: ~, strict_load_g: false, resume_state: ~}
train:
  ema_decay: 0.999
  optim_g: {type: Adam, lr: !!float 1e-4, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [200000], gamma: 0.5}
  total_iter: 300000
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
val:
  val_freq: !!float 5e3
  save_img: false
  metrics:
    psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false}
logger:
  print_freq: 100
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb: {project: ~, resume_id: ~}
dist_params: {backend: nccl, port: 29500}
"""
EDSR_TEST = """
name: EDSR_Lx4_f256b32_DIV2K_official
model_type: SRModel
scale: 4
num_gpu: 1
manual_seed: 0
datasets:
  test_1: {name: Set5, type: PairedImageDataset, dataroot_gt: datasets/Set5/GTmod12,
           dataroot_lq: datasets/Set5/LRbicx4, io_backend: {type: disk}}
  test_2: {name: DIV2K100, type: PairedImageDataset, dataroot_gt: datasets/DIV2K/DIV2K_valid_HR,
           dataroot_lq: datasets/DIV2K/DIV2K_valid_LR_bicubic/X4, filename_tmpl: '{}x4', io_backend: {type: disk}}
network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 256, num_block: 32, upscale: 4, res_scale: 0.1,
            img_range: 255., rgb_mean: [0.4488, 0.4371, 0.4040]}
path: {pretrain_network_g: experiments/EDSR.pth, strict_load_g: true}
val:
  save_img: true
  suffix: ~
  metrics:
    psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false}
    ssim: {type: calculate_ssim, crop_border: 4, test_y_channel: false}
"""


@pytest.fixture
def written(options, tmp_path, monkeypatch):
    """The tiny training options as they are written in a file."""
    monkeypatch.chdir(tmp_path)
    for key in ('is_train', 'dist', 'rank', 'world_size', 'auto_resume', 'root_path'):
        del options[key]
    options['path'] = {'pretrain_network_g': None, 'resume_state': None}
    return options


def changed(options, change):
    """Options with ``a:b:c: value`` set in them."""
    options = copy.deepcopy(options)
    for path, value in change.items():
        *blocks, key = path.split(':')
        block = options
        for name in blocks:
            block = block.setdefault(name, {})
        if value is KeyError:
            block.pop(key)
        else:
            block[key] = value
    return options


def no_data(problems):
    """The problems but those of files that are not there."""
    lacks = 'there is no folder', 'no weights file', 'are neither in a cache'
    return [problem for problem in problems if not any(words in problem for words in lacks)]


def test_options_without_problems_have_none(written):
    assert problems_of(written) == []
    assert problems_of(changed(written, {
        'train:max_bad_steps': 0, 'datasets:train:max_corrupt_images': 3, 'datasets:val:max_corrupt_images': 0,
        'train:amp': 'bf16', 'train:accumulate': 2, 'train:grad_clip': 1.5, 'train:compile': True,
        'train:optim_g': {'type': 'AdamW', 'lr': 1e-4, 'fused': False}, 'logger:keep_last': 2,
        'logger:save_best': 'psnr', 'num_gpu': 1, 'val:val_freq': 4.0})) == []


@pytest.mark.parametrize(('change', 'expected'), [
    # unknown, misspelt and missing keys
    ({'scael': 4}, "unknown option 'scael'; did you mean 'scale'?"),
    ({'datasets:train:batch_size_per_gpus': 1}, "datasets:train: unknown option 'batch_size_per_gpus'; did you mean"),
    ({'datasets:train:io_backend:typ': 1}, "datasets:train:io_backend: unknown option 'typ'; did you mean 'type'?"),
    ({'network_g:num_feats': 1}, "network_g: unknown option 'num_feats'; did you mean 'num_feat'?"),
    ({'network_g:semantic:encoder:lora_rang': 1}, "network_g:semantic:encoder: unknown option 'lora_rang'; did you"),
    ({'path:strict_laod_g': True}, "path: unknown option 'strict_laod_g'; did you mean 'strict_load_g'?"),
    ({'train:total_iters': 4}, "train: unknown option 'total_iters'; did you mean 'total_iter'?"),
    ({'train:optim_g:beta': [0.9, 0.9]}, "train:optim_g: unknown option 'beta'; did you mean 'betas'?"),
    ({'train:scheduler:gama': 0.5}, "train:scheduler: unknown option 'gama'; did you mean 'gamma'?"),
    ({'train:pixel_opt:los_weight': 1}, "train:pixel_opt: unknown option 'los_weight'; did you mean 'loss_weight'?"),
    ({'val:metrics:psnr:crop_boarder': 4}, "val:metrics:psnr: unknown option 'crop_boarder'; did you mean 'crop_b"),
    ({'logger:print_frequency': 4}, "logger: unknown option 'print_frequency'; did you mean 'print_freq'?"),
    ({'logger:wandb': {'projekt': 'x'}}, "logger:wandb: unknown option 'projekt'; did you mean 'project'?"),
    ({'dist_params': {'prot': 1}}, "dist_params: unknown option 'prot'; did you mean 'port'?"),
    ({'datasets:train:use_hflip': KeyError}, "datasets:train: option 'use_hflip' is missing"),
    ({'val:save_img': KeyError}, "val: option 'save_img' is missing"),
    ({'val:val_freq': KeyError}, "val: option 'val_freq' is missing"),
    ({'logger:use_tb_logger': KeyError}, "logger: option 'use_tb_logger' is missing"),
    ({'num_gpu': KeyError}, "option 'num_gpu' is missing"),
    # names of classes
    ({'model_type': 'SemanticGuidedModel'}, "model_type: there is no model 'SemanticGuidedModel'; did you mean"),
    ({'datasets:val:type': 'PairedDataset'}, "datasets:val:type: there is no dataset 'PairedDataset'; did you mean"),
    ({'network_g': {'type': 'SeGSR_EDRS'}}, "network_g:type: there is no network 'SeGSR_EDRS'; did you mean"),
    ({'train:optim_g:type': 'Adan'}, "train:optim_g:type: torch.optim has no optimizer 'Adan'; there are Adam"),
    ({'train:scheduler:type': 'MultiStep'}, "train:scheduler:type: there is no scheduler 'MultiStep'; did you mean"),
    ({'train:pixel_opt:type': 'L1los'}, "train:pixel_opt:type: there is no loss 'L1los'; did you mean 'L1Loss'?"),
    ({'val:metrics:psnr:type': 'psnr'}, "val:metrics:psnr: there is no metric of type 'psnr'; there are"),
    # types and ranges
    ({'train:optim_g:lr': '1e-4'}, "train:optim_g:lr: is '1e-4', must be a number; YAML reads it as a text: write "
                                   '!!float 1e-4'),
    ({'train:optim_g:lr': -1}, 'train:optim_g: Invalid learning rate: -1'),
    ({'train:optim_g:betas': 0.9}, 'train:optim_g:betas: is 0.9, must be a list, each a number'),
    ({'train:ema_decay': 1.5}, 'train:ema_decay: is 1.5, must be a number in [0, 1)'),
    ({'train:amp': 'half'}, "train:amp: is 'half', must be bf16, fp16 or ~"),
    ({'train:max_bad_steps': -1}, 'train:max_bad_steps: is -1, must be a whole number >= 0'),
    ({'train:scheduler:milestones': ['x']}, 'train:scheduler:milestones: is ['),
    ({'train:pixel_opt:reduction': 'none'}, "train:pixel_opt:reduction: is 'none', must be one of mean, sum"),
    ({'train': 3}, 'train: is 3, must be a block of options'),
    ({'datasets:val': 3}, 'datasets:val: is 3, must be a block of options'),
    ({'datasets:train:use_rot': 'yes'}, "datasets:train:use_rot: is 'yes', must be true or false"),
    ({'datasets:train:max_corrupt_images': 1.5}, 'datasets:train:max_corrupt_images: is 1.5, must be a whole number'),
    ({'val:val_freq': 0}, 'val:val_freq: is 0, must be a whole number >= 1'),
    ({'val:metrics:psnr:test_y_channel': 1}, 'val:metrics:psnr:test_y_channel: is 1, must be true or false'),
    ({'logger:print_freq': 0}, 'logger:print_freq: is 0, must be a whole number >= 1'),
    ({'logger:keep_last': 0}, 'logger:keep_last: is 0, must be a number of checkpoints, 1 or more'),
    ({'logger:keep_last': True}, 'logger:keep_last: is True, must be'),
    ({'datasets:train:use_flip': True}, "datasets:train: unknown option 'use_flip'; did you mean 'use_hflip'?"),
    ({'datasets:train:resume': {}}, "datasets:train: unknown option 'resume'"),
    ({'num_gpu': 'one'}, "num_gpu: is 'one', must be a number of GPUs, or auto"),
    ({'rows': ['IX HAT']}, "rows: 'IX HAT' should be a table"),
    ({'name': '../x'}, "name: '../x' must be a plain name"),
    ({'datasets:train:gt_size': 32.0}, 'datasets:train:gt_size: is 32.0, must be a whole number >= 1'),
    ({'val:metrics:psnr:crop_border': 4.0}, 'val:metrics:psnr:crop_border: is 4.0, must be a whole number >= 0'),
    ({'val:metrics:psnr:crop_border': '4'}, "val:metrics:psnr:crop_border: is '4', must be a whole number >= 0; YAML "
                                            'reads it as a text: write it without quotes: 4'),
    ({'manual_seed': 5.0}, 'manual_seed: is 5.0, must be a whole number'),
    ({'network_g:res_scale': '1e-1'}, "network_g:res_scale: is '1e-1', must be a number"),
    ({'network_g:img_range': [1, 2]}, 'network_g:img_range: is [1, 2], must be a number'),
    ({'network_g:num_feat': 0}, 'network_g: its options make layers without any weights'),
    ({'network_g:num_block': 10**30}, f'network_g:num_block: is {10**30}, must be a number below 100,000'),
    ({'network_g:semantic': {1: 2}}, "network_g:semantic: unknown option '1'; there are guidance"),
    ({'network_g': {}}, "option 'network_g' is missing"),
    ({'train': {}}, "option 'train' is missing"),
    ({'train:scheduler': {}}, "train: option 'scheduler' is missing"),
    ({'model_type': ''}, "option 'model_type' is missing"),
    ({'datasets:train:dataroot_gt': ''}, "datasets:train: option 'dataroot_gt' is missing"),
    ({'val:metrics': {1: {'type': 'calculate_psnr', 'crop_border': 4}}, 'logger:save_best': 'psnr'},
     "logger:save_best: 'psnr' is not in val:metrics; there are 1"),
    ({'datasets:val:name': ['a'], 'logger:save_best': 'psnr'}, "datasets:val:name: ['a'] must be a plain name"),
    ({'dist_params': {'backend': 'x'}}, "dist_params:backend: is 'x', must be one of nccl, gloo"),
    # contradictions
    ({'scale': 2}, 'scale: is 2, but network_g has upscale 4'),
    ({'network_g': {'type': 'HAUNet', 'up_scale': 2}}, 'scale: is 4, but network_g has up_scale 2'),
    ({'network_g': {'type': 'HAUNet', 'up_scale': 4, 'heads': [1, 5, 4]}},
     'network_g: HAUNet cannot be built from these options: ValueError: HAUNet: width 96 does not divide by 5'),
    ({'datasets:train:gt_size': 30}, 'datasets:train:gt_size: is 30, must be a multiple of scale, 4'),
    ({'datasets:train:gt_size': 128}, "datasets:train:gt_size: is 128, but '"),
    ({'network_g': {'type': 'HAT', 'upscale': 4, 'window_size': 16, 'embed_dim': 12, 'depths': [1], 'num_heads': [2]}},
     'datasets:train:gt_size: is 32, so that LR patches are 8 pixels wide; they must be a multiple of network'),
    ({'network_g:num_units': 3}, 'network_g:num_units: 3 does not divide the 4 residual blocks'),
    ({'network_g:semantic:guidance': 'maps'}, "network_g:semantic:guidance: is 'maps', must be one of"),
    ({'train:scheduler:milestones': [4, 8, 9]}, 'train:scheduler:milestones: 9 would never be reached; the last is at'),
    ({'train:scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [4]}},
     'train:scheduler:periods: add up to 4; must reach train:total_iter, 8'),
    ({'val:metrics:psnr:crop_border': 32}, 'val:metrics:psnr:crop_border: is 32, which leaves nothing of the smallest'),
    ({'datasets:train:batch_size_per_gpu': 5}, 'datasets:train:batch_size_per_gpu: a batch of 5 is more than the 4'),
    ({'datasets:train:persistent_workers': True}, 'datasets:train:persistent_workers: needs num_worker_per_gpu >= 1'),
    ({'datasets:val:persistent_workers': True}, 'datasets:val:persistent_workers: must be false'),
    ({'datasets:train:persistent_workers': True, 'datasets:train:num_worker_per_gpu': 1,
      'datasets:train:prefetch_mode': 'cpu'}, 'datasets:train:prefetch_mode: cpu hangs with persistent_workers'),
    ({'datasets:train:prefetch_mode': 'cuda'}, 'datasets:train:prefetch_mode: cuda needs pin_memory: true'),
    ({'datasets:test': {'name': 'x'}}, 'datasets:test: is no phase that BasicSR uses; there are train, val'),
    ({'logger:save_best': 'lpips'}, "logger:save_best: 'lpips' is not in val:metrics; there are psnr, ssim"),
    ({'datasets:train:type': 'SingleImageDataset'}, 'datasets:train:type: SingleImageDataset has no ground truth to '
                                                    'train on; PairedImageDataset has'),
    # what is not there
    ({'datasets:val:dataroot_lq': 'nowhere'}, "datasets:val: there is no folder 'nowhere'; \"segsr prepare --help\""),
    ({'datasets:train:io_backend:type': 'lmdb'}, 'datasets:train: \''),
    ({'path:pretrain_network_g': 'none.pth'}, "path:pretrain_network_g: there is no weights file 'none.pth'"),
    ({'path:resume_state': 'none.state'}, "path:resume_state: 'none.state' is missing"),
    ({'network_g:semantic:encoder:pretrained': 'none.pt'},
     "network_g:semantic:encoder:pretrained: 'none.pt' is neither a file"),
])
def test_each_problem_is_named_with_its_option(written, change, expected, no_network):
    problems = problems_of(changed(written, change))
    assert [problem for problem in problems if problem.startswith(expected)], problems
    assert not any('\n' in problem for problem in problems)


def test_basicsrs_logger_is_left_to_be_set_up_by_train_py(written, monkeypatch):
    """Whoever uses it first decides whether there is a log file."""
    monkeypatch.setattr('basicsr.utils.logger.initialized_logger', {})
    assert problems_of(written) == []
    assert basicsr.utils.logger.initialized_logger == {}


def test_clip_weights_are_looked_into(written, tmp_path, no_network):
    encoder = written['network_g']['semantic']['encoder']
    good = encoder['pretrained']
    encoder['pretrained'] = str(tmp_path / 'clip.pt')
    Path(encoder['pretrained']).write_bytes(Path(good).read_bytes()[:-100])
    problem, = problems_of(written)
    assert problem.startswith("network_g:semantic:encoder:pretrained: cannot read weights from '")
    encoder.update(model='ViT-B-16', pretrained='opneai')
    problem, = problems_of(written)
    assert "'opneai' is neither a file" in problem and 'ViT-B-16, which has openai' in problem
    assert no_network == []
    encoder['pretrained'] = 'openai'
    problem, = problems_of(written)
    assert "the weights of ViT-B-16, tag 'openai', are neither in a cache" in problem


def test_all_problems_of_a_network_are_named(written):
    wrong = changed(written, {'network_g:num_units': 3, 'network_g:num_feats': 4,
                              'network_g:semantic:encoder:lora_rnk': 3})
    found = problems_of(wrong)
    for start in ('network_g:num_units: 3', "network_g: unknown option 'num_feats'",
                  "network_g:semantic:encoder: unknown option 'lora_rnk'"):
        assert [problem for problem in found if problem.startswith(start)], found


def test_weights_that_do_not_fit_are_named(written, tmp_path):
    net = build_network(copy.deepcopy(written['network_g']))
    torch.save({'params': net.state_dict()}, tmp_path / 'own.pth')
    torch.save({'params': net.backbone.state_dict()}, tmp_path / 'stock.pth')
    for name in ('own.pth', 'stock.pth'):
        written['path']['pretrain_network_g'] = str(tmp_path / name)
        assert problems_of(written) == []
        problem, = problems_of(changed(written, {'network_g:num_feat': 24}))
        assert problem.startswith(f"path:pretrain_network_g: '{tmp_path / name}': the weights do not fit SeGSR_EDSR")
        assert problems_of(changed(written, {'network_g:num_feat': 24, 'path:strict_load_g': False})) == []


def test_a_damaged_state_is_named(written, tmp_path):
    torch.save({'epoch': 0}, tmp_path / '5.state')
    written['path']['resume_state'] = str(tmp_path / '5.state')
    problem, = problems_of(written)
    assert problem == f"path:resume_state: '{tmp_path / '5.state'}' is no training state of BasicSR: it has no iter"


def test_a_test_of_damaged_training_options_is_reported(written):
    found = problems_of(changed(written, {'train:ema_decay': '0,99'}), test=True)
    assert [problem for problem in found if 'no weights file' in problem]


def cut(path, kind):
    """Make the image one of another format, of which the last third is missing."""
    content = cv2.imencode(kind, cv2.imread(str(path)))[1].tobytes()
    path.write_bytes(content[:len(content) * 2 // 3])


@pytest.mark.parametrize(('spoil', 'expected'), [
    (lambda root: (root / 'LR' / 'meadow01.png').unlink(), 'has no image of the same name'),
    (lambda root: (root / 'LR' / 'meadow01.png').write_text('no image'), 'it cannot be decoded'),
    (lambda root: cv2.imwrite(str(root / 'HR' / 'meadow01.png'), cv2.imread(str(root / 'HR' / 'meadow01.png'))[:63]),
     'is 64 x 63; for an LR image of 16 x 16 at x4 it must be 64 x 64'),
    (lambda root: cv2.imwrite(str(root / 'LR' / 'meadow01.png'), np.zeros((16, 16, 3), np.uint16)),
     'LR/meadow01.png\': its samples are uint16, and BasicSR cuts them to 8 bits: "segsr prepare folder --value-range'),
    (lambda root: cut(root / 'LR' / 'meadow01.png', '.jpg'), 'LR/meadow01.png\': it is cut off')])
def test_the_images_of_training_belong_together(written, pairs, tmp_path, spoil, expected):
    shutil.copytree(pairs, tmp_path / 'own')
    written['datasets']['train'].update(dataroot_gt=str(tmp_path / 'own/HR'), dataroot_lq=str(tmp_path / 'own/LR'))
    assert problems_of(written) == []
    spoil(tmp_path / 'own')
    problem, = problems_of(written)
    assert problem.startswith('datasets:train: ') and expected in problem


def test_every_damaged_image_is_named_up_to_a_handful(written, pairs, tmp_path):
    shutil.copytree(pairs, tmp_path / 'own')
    data = written['datasets']['train']
    data.update(dataroot_gt=str(tmp_path / 'own/HR'), dataroot_lq=str(tmp_path / 'own/LR'), max_corrupt_images=2)
    for name in ('meadow01', 'woodland00'):
        cut(tmp_path / 'own' / 'HR' / f'{name}.png', '.jpg')
    assert problems_of(written) == []
    data['max_corrupt_images'] = 1
    problem, = problems_of(written)
    assert all(f"HR/{name}.png': it is cut off" in problem for name in ('meadow01', 'woodland00'))
    for i in range(6):
        for kind in ('HR', 'LR'):
            (tmp_path / 'own' / kind / f'x{i}.png').write_bytes(b'no image')
    assert problems_of(written)[0].endswith('; and 3 more')
    data['max_corrupt_images'] = 8
    assert problems_of(written) == []
    cv2.imwrite(str(tmp_path / 'own' / 'HR' / 'x0.png'), np.zeros((64, 64, 3), np.uint16))
    assert 'x1.png' in problems_of(written)[0]  # those of more bits are not passed over in training


def test_images_are_opened_as_the_loader_does(written, pairs, tmp_path):
    """An HR image that EXIF's mark turns upright has the size that the loader gives it."""
    shutil.copytree(pairs, tmp_path / 'own')
    data = written['datasets']['val']
    data.update(dataroot_gt=str(tmp_path / 'own/HR'), dataroot_lq=str(tmp_path / 'own/LR'))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (64, 48)).save(tmp_path / 'own' / 'HR' / 'meadow01.png', 'JPEG', exif=exif)
    Image.new('RGB', (12, 16)).save(tmp_path / 'own' / 'LR' / 'meadow01.png')
    assert problems_of(written) == []
    dataset = build_dataset({**data, 'phase': 'val', 'scale': 4})
    shapes = {Path(sample['gt_path']).stem: sample['gt'].shape for sample in map(dataset.__getitem__, range(4))}
    assert shapes['meadow01'] == (3, 64, 48)


def test_file_name_templates_and_lists_are_followed(written, pairs, tmp_path):
    shutil.copytree(pairs, tmp_path / 'own')
    for path in (tmp_path / 'own' / 'LR').iterdir():
        path.rename(path.with_name(f'{path.stem}x4.png'))
    data = written['datasets']['train']
    data.update(dataroot_gt=str(tmp_path / 'own/HR'), dataroot_lq=str(tmp_path / 'own/LR'), filename_tmpl='{}x4')
    assert problems_of(written) == []
    (tmp_path / 'list.txt').write_text('meadow00.png (64,64,3)\nwoodland00.png (64,64,3)\n')
    data['meta_info_file'] = str(tmp_path / 'list.txt')
    assert problems_of(written) == []
    (tmp_path / 'list.txt').write_text('meadow00.png (64,64,3)\nmeadow09.png (64,64,3)\n')
    assert any(problem.startswith("datasets:train:meta_info_file: 'meadow09.png' is not in '")
               for problem in problems_of(written))


def test_lmdbs_are_compared_by_their_lists(written, tmp_path):
    lmdb = pytest.importorskip('lmdb')
    data = written['datasets']['train']
    for kind, side in (('HR', 64), ('LR', 16)):
        folder = tmp_path / f'{kind}.lmdb'
        image = cv2.imencode('.png', np.zeros((side, side, 3), np.uint8))[1].tobytes()
        with lmdb.open(str(folder)) as base, base.begin(write=True) as transaction:
            for name in (b'a', b'b'):
                transaction.put(name, image)
        (folder / 'meta_info.txt').write_text(f'a.png ({side},{side},3) 1\nb.png ({side},{side},3) 1\n')
    data.update(dataroot_gt=str(tmp_path / 'HR.lmdb'), dataroot_lq=str(tmp_path / 'LR.lmdb'),
                io_backend={'type': 'lmdb'})
    assert problems_of(written) == []
    assert problems_of(changed(written, {'datasets:train:filename_tmpl': '{}x4'})) == []  # LMDBs have keys
    (tmp_path / 'LR.lmdb' / 'meta_info.txt').write_text('a.png (16,16,3) 1\nb.png (16,15,3) 1\n')
    assert 'is 64 x 64; for an LR image of 15 x 16' in problems_of(written)[0]
    for damage, said in ((b'no image', "'a' of '"), (None, 'it is not in the database')):
        with lmdb.open(str(tmp_path / 'LR.lmdb')) as base, base.begin(write=True) as transaction:
            transaction.put(b'a', damage) if damage else transaction.delete(b'a')
        problem, = problems_of(written)
        assert problem.startswith('datasets:train: ') and said in problem


@pytest.mark.parametrize(('package', 'change', 'option'), [
    ('tensorboard', {'logger:use_tb_logger': True}, 'logger:use_tb_logger'),
    ('wandb', {'logger:use_tb_logger': True, 'logger:wandb': {'project': 'x'}}, 'logger:wandb:project'),
    ('lmdb', {'datasets:train:io_backend:type': 'lmdb'}, 'datasets:train:io_backend:type')])
def test_packages_that_are_missing(written, monkeypatch, package, change, option):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *rest: None if name == package else find_spec(name))
    problems = problems_of(changed(written, change))
    assert f'{option}: needs the package {package}: pip install {package}' in problems


def test_pyiqa_is_asked_for_where_it_is_needed(written, monkeypatch):
    from segsr_model.testing import pyiqa_metric
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
    pyiqa_metric.create.cache_clear()
    written['val']['metrics']['lpips'] = {'type': 'calculate_pyiqa', 'metric': 'lpips'}
    assert problems_of(written)[0].startswith("val:metrics:lpips: metric 'lpips' needs pyiqa: pip install pyiqa")


def test_no_disk_and_no_folder(written, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: Usage(1, 1, 1 << 20))
    problem, = problems_of(written)
    assert problem.startswith('logger:save_checkpoint_freq: the checkpoints take about 0.0')
    assert '0.00 GB left' in problem
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'experiments').write_text('in the way')
    problem, = problems_of(written)
    assert problem.startswith('name: ') and 'no folder that can be written to' in problem


def test_classes_of_others_are_accepted(written, monkeypatch):
    from basicsr.utils.registry import DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY
    for registry, thing in ((DATASET_REGISTRY, type('Others', (), {})), (METRIC_REGISTRY, lambda img, **options: 0.0),
                            (LOSS_REGISTRY, type('OthersLoss', (), {'__init__': lambda self, **options: None}))):
        monkeypatch.setitem(registry._obj_map, f'others_{registry._name}', thing)
    assert problems_of(changed(written, {
        'datasets:val': {'name': 'x', 'type': 'others_dataset', 'anything': 1},
        'train:pixel_opt': {'type': 'others_loss', 'anything': 1},
        'val:metrics:other': {'type': 'others_metric', 'anything': 1}, 'find_unused_parameters': True})) == []
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, 'Mine_basicsr', type('Mine', (), {}))
    assert problems_of(changed(written, {'datasets:val': {'name': 'x', 'type': 'Mine'}})) == []


def test_all_problems_are_in_one_report_before_anything_is_written(written, tmp_path, monkeypatch, capsys):
    wrong = changed(written, {'scale': 2, 'train:optim_g:lr': '1e-4', 'val:save_imgs': True, 'num_gpu': 1,
                              'datasets:val:dataroot_gt': 'nowhere', 'network_g:num_units': 3})
    file = tmp_path / 'wrong.yml'
    file.write_text(yaml.safe_dump(wrong))
    before = sorted(tmp_path.rglob('*'))
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file)])
    with pytest.raises(SystemExit) as error:
        basicsr_options.parse_options(str(tmp_path), True)
    headline, *lines = str(error.value).splitlines()
    assert headline == f'{file}: {len(lines)} problems'
    for start in ('scale: is 2', 'train:optim_g:lr: ', "val: unknown option 'save_imgs'",
                  'num_gpu: 1, but PyTorch finds', "datasets:val: there is no folder 'nowhere'",
                  'network_g:num_units: 3 does not divide'):
        assert [line for line in lines if line.startswith(f'  {start}')], (start, lines)

    capsys.readouterr()
    assert main(['check', '-opt', str(file)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said == [f'{file}: {len(lines) - 1} problems', *(line for line in lines if 'finds no GPU' not in line)]
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(('gpus', 'wanted', 'dist', 'said'), [
    (0, 1, False, ['num_gpu: 1, but PyTorch finds no GPU; to run on the CPU set num_gpu: 0']),
    (1, 4, False, ['num_gpu: 4, but PyTorch finds 1 GPU']), (2, 4, False, ['num_gpu: 4, but PyTorch finds 2 GPUs']),
    (1, 4, True, []), (2, 2, False, []), (2, 0, False, [])])
def test_gpus_that_are_not_there(written, gpus, wanted, dist, said, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: gpus > 0)
    monkeypatch.setattr('torch.cuda.device_count', lambda: gpus)
    options = {**written, 'num_gpu': wanted, 'dist': dist, 'is_train': True}
    found = [line for line in _problems(options) if line.startswith('num_gpu')]
    assert found == said


def _problems(options):
    try:
        check_options(options)
    except ProblemsError as error:
        return error.problems
    return []


@pytest.mark.parametrize(('network', 'able'), [
    ({'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'upscale': 4}, False),
    ({'type': 'SwinIR', 'img_size': 8, 'window_size': 8, 'embed_dim': 12, 'depths': [1], 'num_heads': [2],
      'upscale': 4, 'upsampler': 'pixelshuffle'}, False),
    ({'type': 'HAT', 'img_size': 8, 'window_size': 8, 'embed_dim': 12, 'depths': [1], 'num_heads': [2],
      'squeeze_factor': 1, 'upscale': 4}, True),
    ({'type': 'SeGSR_SwinIR', 'img_size': 8, 'window_size': 8, 'embed_dim': 12, 'depths': [1], 'num_heads': [2],
      'num_units': 1, 'semantic': {'guidance': 'none'}, 'upscale': 4}, True)])
def test_use_checkpoint_is_refused_where_it_does_nothing(written, network, able):
    found = [line for line in problems_of(changed(written, {'network_g': network, 'train:use_checkpoint': True}))
             if 'use_checkpoint' in line]
    assert found == [] if able else found == [f'train:use_checkpoint: {network["type"]} cannot compute its blocks '
                                              'again; HAT, SRFormer, TTST and the SeGSR networks can']


@pytest.mark.parametrize('guided', [False, True])
def test_srformer_may_be_trained_on_patches_that_it_pads(written, guided):
    """Its authors' window is 22, their patches are 48 or 64 pixels wide."""
    network = {'type': 'SRFormer', 'img_size': 8, 'window_size': 6, 'embed_dim': 12, 'depths': [1], 'num_heads': [2],
               'upscale': 4}
    if guided:
        network.update(type='SeGSR_SRFormer', num_units=1, semantic={'guidance': 'none'})
    assert problems_of(changed(written, {'network_g': network})) == []


def test_what_basicsr_stumbles_over_is_reported_like_the_rest(written, tmp_path, monkeypatch):
    file = tmp_path / 'wrong.yml'
    file.write_text(yaml.safe_dump(changed(written, {'num_gpu': KeyError, 'vla': 3})))
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file)])
    with pytest.raises(SystemExit) as error:
        basicsr_options.parse_options(str(tmp_path), True)
    assert str(error.value).splitlines() == [
        f'{file}: 2 problems', "  unknown option 'vla'; did you mean 'val'?", "  option 'num_gpu' is missing"]


def test_exit_codes(written, tmp_path, capsys):
    good, bad = tmp_path / 'good.yml', tmp_path / 'bad.yml'
    good.write_text(yaml.safe_dump(written))
    bad.write_text('include: good.yml\nnetwork_g: {num_units: 3}')
    assert main(['check', '-opt', str(good)]) == 0
    assert capsys.readouterr().out == f'{good}: no problems found\n'
    assert main(['check', '-opt', str(good), str(bad)]) == 1
    assert capsys.readouterr().out.splitlines()[1] .startswith(f'{bad}: network_g:num_units: 3 does not divide')
    assert main(['check', '-opt', str(good), '--test']) == 1
    assert 'experiments/run/models/net_g_latest.pth' in capsys.readouterr().out
    assert main(['check', '-opt', str(tmp_path / 'none.yml')]) == 2
    assert 'cannot read the option file' in capsys.readouterr().err


def test_a_report_of_one_problem_is_one_line():
    assert report('a.yml', ['scale: x']) == 'a.yml: scale: x'
    assert report('a.yml', ['scale: x\x1b', 'y']) == 'a.yml: 2 problems\n  scale: x\\x1b\n  y'


@pytest.mark.parametrize('text', [EDSR_TRAINING, EDSR_TEST])
@pytest.mark.parametrize('model', ['SRModel', 'SemanticGuidedSRModel'])
def test_all_that_basicsrs_own_files_say_is_accepted(text, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: Usage(1, 1, 1 << 50))
    options = {**yaml.safe_load(text), 'model_type': model}
    assert problems_of(options) and no_data(problems_of(options)) == []


@pytest.mark.parametrize('file', FILES)
def test_what_ships_lacks_nothing_but_data(file, monkeypatch, no_network):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: Usage(1, 1, 1 << 50))
    monkeypatch.chdir(OPTIONS.parent)
    options = compose(OPTIONS / file)[0]
    assert no_data(problems_of(options)) == []
    if 'train' in options['datasets']:
        assert no_data(problems_of(options, test=True)) == []
