"""SeG-SR against its straightforward implementation: time, memory, checkpoints, in one run.

python -m tests.plain.benchmark [--opt options/train_SeGSR_HAT_x4.yml] [--batch 2] [--repeat 3]
"""

import argparse
import copy
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import open_clip
import torch
from basicsr.models import build_model
from basicsr.models.sr_model import SRModel

from segsr_arch.clip.clip_tower import Tower
from segsr_arch.layers.checkpointing import without_recomputing
from segsr_model.cost.bench import cost
from segsr_model.cost.bench_runs import Work
from segsr_model.option_files import read_options
from segsr_model.training.training_step import SLOW_BF16
from tests.plain.network import make_plain


class PlainModel(SRModel):
    """BasicSR's model as it is, around the plain network, with whole checkpoints and nothing computed again."""

    def model_to_device(self, net):
        return make_plain(super().model_to_device(net))

    def optimize_parameters(self, current_iter):
        with without_recomputing():
            super().optimize_parameters(current_iter)

    def setup_optimizers(self):
        trained = [p for p in self.net_g.parameters() if p.requires_grad]
        options = dict(self.opt['train']['optim_g'])
        self.optimizer_g = self.get_optimizer(options.pop('type'), trained, **options)
        self.optimizers.append(self.optimizer_g)

    def print_network(self, net):
        """Nothing."""


def plain_tower(options):
    """The image tower of a whole CLIP from open_clip, without a record of its weights: checkpoints hold them."""
    clip = open_clip.create_model(options.model)
    weights = torch.load(options.pretrained)
    clip.visual.load_state_dict({name.removeprefix('visual.'): value for name, value in weights.items()})
    return Tower(clip.visual.requires_grad_(False), {
        'model': options.model, 'pretrained': options.pretrained, 'sha256': None, 'quick_gelu': False, 'heads': 12,
        'mean': open_clip.OPENAI_DATASET_MEAN, 'std': open_clip.OPENAI_DATASET_STD})


def build_plain(options):
    with mock.patch('segsr_arch.sfem.load_tower', plain_tower):
        return PlainModel(options)


def checkpoint(options, build):
    """Bytes of models and of training states, seconds to save, and of an EMA update."""
    with tempfile.TemporaryDirectory() as folder:
        options = copy.deepcopy(options)
        options['path'] = {key: folder for key in ('models', 'training_states', 'log', 'visualization')}
        options.update(is_train=True, dist=False, rank=0, world_size=1, num_gpu=0, root_path=folder)
        model = build(options)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            model.model_ema(0.999)
            seconds.append(time.perf_counter() - start)
        model.save(0, 1)
        return sum(file.stat().st_size for file in Path(folder).glob('net_g_1.pth')), min(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--opt', default='options/train_SeGSR_HAT_x4.yml')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--repeat', type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, 'clip.pt')
        visual = open_clip.create_model('ViT-B-16').visual
        torch.save({'visual.' + k: v for k, v in visual.state_dict().items()}, weights)
        options = read_options(args.opt)
        options['network_g']['semantic']['encoder']['pretrained'] = weights
        work = Work(options, batch=args.batch, repeat=args.repeat)
        checkpointed = copy.deepcopy(options)
        checkpointed['train']['use_checkpoint'] = True
        runs = {
            'plain fp32': (work, build_plain),
            'ours fp32': (work, build_model),
            'ours bf16': (replace(work, precision='bf16'), build_model),
            'ours fp32, use_checkpoint': (replace(work, options=checkpointed), build_model),
            'ours bf16, use_checkpoint': (replace(work, options=checkpointed, precision='bf16'), build_model)}
        costs = {}
        if torch.backends.cpu.get_cpu_capability() in SLOW_BF16:
            say('bf16 is left out: this CPU has no instructions for it')
            runs = {name: run for name, run in runs.items() if 'bf16' not in name}
        for name, (what, build) in runs.items():
            costs[name] = cost(name, what, build)
            plain, ours = costs['plain fp32'], costs[name]
            say(f'{name:28} start {ours.start:6.2f} s ({plain.start / ours.start:.2f} x)  '
                f'inference {ours.forward:6.3f} s ({plain.forward / ours.forward:.2f} x)  '
                f'step {ours.step:6.2f} s ({plain.step / ours.step:.2f} x)  '
                f'memory {ours.memory / 2**30:5.2f} GiB ({ours.memory / plain.memory:.2f})  of peak '
                f'{ours.forward_flops / ours.forward / ours.peak_rate:.2f} '
                f'{ours.step_flops / ours.step / ours.peak_rate:.2f}')
        sizes = {}
        for name, build in (('plain', build_plain), ('ours', build_model)):
            sizes[name] = checkpoint(options, build)
        say(f'checkpoint {sizes["plain"][0] / 2**20:.0f} MiB, {sizes["ours"][0] / 2**20:.0f} MiB '
            f'({sizes["ours"][0] / sizes["plain"][0]:.2f})')
        say(f'EMA update {1e3 * sizes["plain"][1]:.1f} ms, {1e3 * sizes["ours"][1]:.1f} ms '
            f'({sizes["plain"][1] / sizes["ours"][1]:.1f} x)')


def say(line):
    sys.stdout.write(line + '\n')
    sys.stdout.flush()


if __name__ == '__main__':
    main()
