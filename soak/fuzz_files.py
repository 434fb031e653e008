"""Damaged files of every kind, made at random, given to the code that reads them for a user.

Each must be taken or refused in one line, within a time limit, and leave nothing half done. What does not is printed
with its seed, and kept:  python soak/fuzz_files.py [--minutes 3] [--kinds png zip] [--seed 0] [--keep fuzz_failures]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

os.environ['HF_HUB_OFFLINE'] = '1'  # a network_g without semantic: means CLIP's own weights, which would be fetched

import segsr_arch  # isort: skip  # noqa: F401  (first: basicsr is mended before anything imports it)

import cv2
import numpy as np
import rasterio
import torch
import yaml
from basicsr.archs import build_network
from basicsr.utils import options as basicsr_options
from open_clip.model import _build_vision_tower
from PIL import Image
from safetensors.torch import save as save_safetensors

from segsr_arch.clip.clip_tower import load_tower
from segsr_arch.options import EncoderOptions
from segsr_model import basicsr_mends
from segsr_model.cli import main
from segsr_model.option_files import compose
from segsr_model.weights.loading import load_weights
from segsr_model.weights.reading import read_weights

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.model.prepare.archives import rar5  # noqa: E402

LIMIT = 60  # seconds for an input, on a busy machine
CLIP = {'embed_dim': 16, 'vision_cfg': {'image_size': 16, 'patch_size': 8, 'layers': 1, 'width': 16, 'head_width': 8},
        'text_cfg': {'context_length': 4, 'vocab_size': 8, 'width': 8, 'heads': 2, 'layers': 1}}
NETWORK = {'type': 'SeGSR_EDSR', 'upscale': 4, 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 2,
           'num_units': 2}


class Fault(Exception):  # noqa: N818
    """What a user must never meet."""


class Hang(BaseException):
    """An input took longer than the limit. No Exception, so that nothing takes it for damage."""


# how files are damaged

def damage(content: bytes, draw: random.Random) -> bytes:
    """A few random changes to the bytes of a file."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        at, span = draw.randrange(len(data)), draw.choice((1, 2, 4, 8, 64, 512))
        kind = draw.randrange(8)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at:at + span] = draw.randbytes(span)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at:at + span]
        elif kind == 4:
            data[at:at] = data[at:at + span] * draw.randrange(1, 4)
        elif kind == 5:
            other = draw.randrange(len(data))
            data[at:at + span] = data[other:other + span]
        elif kind == 6:  # a number at its limits
            data[at:at + 4] = draw.choice((b'\xff\xff\xff\xff', b'\0\0\0\0', b'\xff\xff\xff\x7f', b'\0\0\0\x80'))
        else:  # a digit of a text
            digits = [i for i in range(len(data)) if 48 <= data[i] < 58]
            data[draw.choice(digits or [at])] = draw.randrange(48, 58)
    return bytes(data)


STRANGE = [None, True, 0, -1, 3, 10 ** 9, 10 ** 30, 0.5, float('nan'), float('inf'), '', 'x', '../../x', '/etc/passwd',
           'a\nb', '\u202e', [], [1], [[]], {}, {'x': 1}, {'type': 'x'}, 'auto', '~', '[]']


def distort(value, draw: random.Random):
    """Change values somewhere in a tree of mappings and lists: other types, odd numbers, missing and extra keys."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            break
        holder, key = draw.choice(places)
        kind = draw.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice((f'{key}x', 3, 'type', 'name'))] = draw.choice(STRANGE)
        elif kind == 2:
            holder[key] = copy.deepcopy(draw.choice(places)[0])
        else:
            holder[key] = copy.deepcopy(draw.choice(STRANGE))
    return value


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(items):
        yield value, key
        yield from _places(part)


# what reads them

def command(*arguments) -> str:
    """Run ``segsr``; what it said when it refused."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    said = err.getvalue().splitlines()
    said = [line for line in said if line.startswith('segsr ')]
    if code not in (0, 1, 2) or (code == 2 and len(said) != 1):
        raise Fault(f'exit code {code} with {err.getvalue()!r}')
    return said[0].split('error: ', 1)[1] if code == 2 else ''


def refusal(call: Callable) -> str:
    """What a call said when it refused, as ValueError or SystemExit: a line, or a headline and a line per problem."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            call()
    except (ValueError, SystemExit) as error:
        first, *more = str(error).splitlines() or ['']
        problems = re.search(r': (\d+) problems$', first)
        whole = len(more) == int(problems[1]) and all(line.startswith('  ') for line in more) if problems else not more
        if not whole or not first or 'Traceback' in str(error):
            raise Fault(f'not a line: {error}') from error
        return str(error)
    return ''


def prepare(path: Path, work: Path, *more) -> str:
    out = work / 'out'
    said = command('prepare', 'folder', '--source', path, '--out', out, '--scale', 2, '--workers', 1,
                   '--min-train-size', 8, *more)
    left = sorted(file.relative_to(work).as_posix() for file in work.rglob('*'))
    if said and out.exists():
        raise Fault(f'refused ({said}), but it left {left}')
    if not said and (not (out / 'x2' / 'manifest.jsonl').is_file() or (out / '.partial').exists()):
        raise Fault(f'taken, but not complete: {left}')
    if any('.part' in name or not name.startswith(('out', 'in')) for name in left):
        raise Fault(f'left {left}')
    return said


def prepare_image(path: Path, work: Path, *more) -> str:
    folder = work / 'in_folder'
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f'good{i}.png'), np.full((32, 32, 3), 40 * i, np.uint8))
    shutil.copy(path, folder / f'bad1{path.suffix}')
    return prepare(folder, work, *more)


def compare(path: Path, work: Path) -> str:
    folder = work / 'in_sr'
    folder.mkdir()
    shutil.copy(path, folder / f'a{path.suffix}')
    cv2.imwrite(str(work / 'a.png'), np.zeros((32, 32, 3), np.uint8))
    said = command('compare', '--hr', work / 'a.png', '--crop', 0, 0, 8, 8, '--results', folder, '--scale', 2,
                   '--out', work / 'out.png')
    if (work / 'out.png').exists() == bool(said) or list(work.glob('.*')):
        raise Fault(f'{said!r}, and left {os.listdir(work)}')
    return said


def weights(path: Path, work: Path) -> str:
    net = Context.net
    return refusal(lambda: load_weights(net, read_weights(path)[0]))


def state(path: Path, work: Path) -> str:
    opt = {'auto_resume': False, 'network_g': {},
           'path': {'resume_state': str(path), 'models': str(work), 'ignore_resume_networks': ['network_g']}}
    return refusal(lambda: basicsr_mends.load_resume_state(opt))


def tower(path: Path, work: Path) -> str:
    return refusal(lambda: load_tower(EncoderOptions(model=str(Context.config), pretrained=str(path))))


def config(path: Path, work: Path) -> str:
    return refusal(lambda: load_tower(EncoderOptions(model=str(path), pretrained=None)))


def option_file(path: Path, work: Path) -> str:
    argv = sys.argv
    sys.argv = ['train.py', '-opt', str(path)]
    try:
        refusal(lambda: basicsr_options.parse_options(str(work), is_train=False))
        return refusal(lambda: basicsr_options.parse_options(str(work), is_train=True))
    finally:
        sys.argv = argv
        if [file.name for file in work.iterdir()] != [path.name]:
            raise Fault(f'left {os.listdir(work)}')


def test_process(path: Path, work: Path) -> str:
    """Damaged weights given to test.py, as a user starts it."""
    checkout = work / 'in_checkout'
    shutil.copytree(ROOT / 'basicsr', checkout / 'basicsr')
    options = {**Context.options, 'path': {'pretrain_network_g': str(path)}}
    options['datasets'] = {'val': options['datasets']['val']}
    (checkout / 'own.yml').write_text(yaml.safe_dump(options))
    done = subprocess.run([sys.executable, '-W', 'ignore', 'basicsr/test.py', '-opt', 'own.yml'], cwd=checkout,
                          capture_output=True, text=True, timeout=LIMIT)
    said = done.stderr.splitlines()[-1:] if done.returncode else ['']
    if 'Traceback' in done.stderr or done.returncode not in (0, 1):
        raise Fault(f'exit code {done.returncode}: {done.stderr[-300:]}')
    if done.returncode and (checkout / 'results').exists() and list((checkout / 'results').rglob('scores*.json')):
        raise Fault('refused, but it wrote scores')
    return said[0]


def scores(path: Path, work: Path) -> str:
    folder = work / 'in_results'
    folder.mkdir()
    shutil.copy(path, folder / 'scores_set.json')
    said = command('scores', folder)
    report = command('report', '--results', folder, '--experiments', work / 'none', '--dataset', 'set', '--out',
                     work / 'out')
    if report and (work / 'out').exists():
        raise Fault(f'refused ({report}), but it wrote')
    return said or report


def verify(path: Path, work: Path) -> str:
    """The manifest, or a file of the LMDB, of prepared data is replaced."""
    data = work / 'in_data'
    shutil.copytree(Context.prepared, data)
    shutil.copy(path, data / {'.jsonl': 'x2/manifest.jsonl', '.mdb': 'x2/train/HR.lmdb/data.mdb'}[path.suffix])
    return command('prepare', 'verify', data, '--workers', 1)


# the files that are damaged

class Context:
    """What the readers need beside the file."""

    net: torch.nn.Module
    config: Path
    prepared: Path
    options: dict


def photo(size: int = 32) -> np.ndarray:
    return cv2.resize(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8), (size, size))


def encoded(kind: str, image: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def archive(kind: str) -> bytes:
    files = {f'top/field/field{i}.png': encoded('PNG', photo()) for i in range(4)} | {'top/readme.txt': b'read me'}
    stream = io.BytesIO()
    if kind == 'zip':
        with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as target:
            for name, content in files.items():
                target.writestr(name, content)
    elif kind == 'rar':
        return rar5(files)
    else:
        with tarfile.open(fileobj=stream, mode='w:gz' if kind == 'tgz' else 'w') as target:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                target.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo('top/field/field9.png')
            link.type, link.linkname = tarfile.SYMTYPE, '../../../etc/passwd'
            target.addfile(link)
    return stream.getvalue()


def saved(content, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def make_seeds(folder: Path) -> dict[str, tuple[str, bytes | dict, Callable[[Path, Path], str]]]:
    """Kind to (suffix, a sound file's bytes or tree of values, what reads it); fills `Context`."""
    torch.manual_seed(0)
    Context.config = folder / 'clip.json'
    Context.config.write_text(json.dumps(CLIP))
    visual = _build_vision_tower(CLIP['embed_dim'], CLIP['vision_cfg']).eval()
    holder = torch.nn.Module()
    holder.visual = visual
    plain = holder.state_dict()
    program = io.BytesIO()
    torch.jit.save(torch.jit.trace_module(holder, {'visual': torch.rand(1, 3, 16, 16)}, check_trace=False), program)
    torch.save(plain, folder / 'clip.pt')
    semantic = {'encoder': {'model': str(Context.config), 'pretrained': str(folder / 'clip.pt'), 'lora_rank': 2}}
    Context.net = build_network({**NETWORK, 'semantic': semantic})
    params = {'params': Context.net.state_dict(), 'iterations': 5}
    adam = torch.optim.Adam([p for p in Context.net.parameters() if p.requires_grad])
    training = {'epoch': 0, 'iter': 5, 'optimizers': [adam.state_dict()], 'schedulers': [{'last_epoch': 5}]}
    geo = folder / 'geo.tif'
    with rasterio.open(geo, 'w', driver='GTiff', dtype='uint16', count=4, height=64, width=64, tiled=True,
                       blockxsize=16, blockysize=16, compress='deflate', nodata=0) as file:
        file.write(np.random.default_rng(0).integers(1, 9999, (4, 64, 64)).astype(np.uint16))
    source = folder / 'sources'
    source.mkdir()
    for i in range(4):
        cv2.imwrite(str(source / f'field{i}.png'), photo())
    Context.prepared = folder / 'prepared'
    command('prepare', 'folder', '--source', source, '--out', Context.prepared, '--scale', 2, '--lmdb', '--workers', 1,
            '--min-train-size', 8)
    pairs = Context.prepared / 'x2' / 'test'
    demo, _ = compose(ROOT / 'options' / 'demo_SeGSR_EDSR_x4.yml')
    dataset = {'name': 'pairs', 'type': 'PairedImageDataset', 'dataroot_gt': str(pairs / 'HR'),
               'dataroot_lq': str(pairs / 'LR'), 'io_backend': {'type': 'disk'}}
    options = {'name': 'run', 'model_type': 'SemanticGuidedSRModel', 'scale': 2, 'num_gpu': 0, 'manual_seed': 0,
               'datasets': {'train': {**dataset, 'gt_size': 32, 'use_hflip': True, 'use_rot': True,
                                      'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0}, 'val': dataset},
               'network_g': {**NETWORK, 'upscale': 2, 'semantic': semantic},
               'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
               'train': demo['train'], 'logger': demo['logger'],
               'val': {'val_freq': 5, 'save_img': False,
                       'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 2}}},
               'rows': []}
    Context.options = options
    psnr = {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True}
    values = {'psnr': 30.0, 'ssim': 0.9}
    protocol = {
        'name': 'run', 'rows': ['I HAT'], 'network': 'HAT', 'scale': 4, 'dataset': 'set', 'images': 1,
        'split_sha256': '0' * 64, 'metrics': {'psnr': psnr, 'ssim': {**psnr, 'type': 'calculate_ssim'}},
        'lr_recipe': {'made_by': 'x', 'kernel': 'y', 'pixels_sha256': '1' * 64}, 'self_ensemble': False,
        'checkpoint': 'a.pth', 'iterations': 5, 'checkpoint_sha256': '2' * 64, 'param_key': 'params',
        'versions': {'segsr': '1', 'torch': '2'}}
    result = {'protocol': protocol, 'average': values, 'classes': {'field': values}, 'images': {'field1': values}}
    tiles = ('--tile', 16, '--bands', 3, 2, 1, '--value-range', 0, 9999)
    rgb = encoded('TIFF', photo(), compression='tiff_lzw')
    return {
        'checkpoint': ('.pth', saved(params), weights),
        'legacy checkpoint': ('.pth', saved(params, _use_new_zipfile_serialization=False), weights),
        'training state': ('.state', saved(training), state),
        'TorchScript': ('.pt', program.getvalue(), tower),
        'CLIP state_dict': ('.pt', saved(plain), tower),
        'safetensors': ('.safetensors', save_safetensors(plain), tower),
        'CLIP config': ('.json', CLIP, config),
        'option file': ('.yml', options, option_file),
        'option file bytes': ('.yml', yaml.safe_dump(options).encode(), option_file),
        'PNG': ('.png', encoded('PNG', photo()), prepare_image),
        'JPEG': ('.jpg', encoded('JPEG', photo()), prepare_image),
        'TIFF': ('.tif', rgb, prepare_image),
        'GeoTIFF': ('.tif', geo.read_bytes(), lambda path, work: prepare_image(path, work, *tiles)),
        'zip': ('.zip', archive('zip'), prepare),
        'tar': ('.tar', archive('tar'), prepare),
        'tgz': ('.tgz', archive('tgz'), prepare),
        'test.py': ('.pth', saved({'params': build_network(options['network_g']).state_dict()}), test_process),
        'rar': ('.rar', archive('rar'), prepare),
        'compared PNG': ('.png', encoded('PNG', photo()), compare),
        'compared JPEG': ('.jpg', encoded('JPEG', photo()), compare),
        'scores': ('.json', result, scores),
        'manifest': ('.jsonl', (Context.prepared / 'x2' / 'manifest.jsonl').read_bytes(), verify),
        'LMDB': ('.mdb', (Context.prepared / 'x2' / 'train' / 'HR.lmdb' / 'data.mdb').read_bytes(), verify),
    }


def make_input(suffix: str, sound: bytes | dict, draw: random.Random) -> bytes:
    """A damaged file."""
    if isinstance(sound, bytes):
        return damage(sound, draw)
    return written(suffix, distort(sound, draw))


def written(suffix: str, value: dict) -> bytes:
    """A tree of values as a file."""
    return (json.dumps(value) if suffix == '.json' else yaml.safe_dump(value)).encode()


def run_one(suffix: str, content: bytes, read: Callable[[Path, Path], str]) -> str:
    """Give one input to its reader, in a folder of its own.

    Returns:
        What was said when it was refused, without what differs between inputs; empty if it was taken.

    Raises:
        Fault: it did neither, or too late, or left something.
    """
    def late(*_):
        raise Hang

    with tempfile.TemporaryDirectory(prefix='segsr_fuzz_') as folder:
        path = Path(folder) / f'input{suffix}'
        path.write_bytes(content)
        signal.signal(signal.SIGALRM, late)
        signal.alarm(LIMIT)
        try:
            said = read(path, Path(folder))
        except Hang:
            raise Fault(f'took more than {LIMIT} s') from None
        except Fault:
            raise
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            ours = [frame for frame in traceback.extract_tb(error.__traceback__) if 'segsr_' in frame.filename]
            place = ours[-1] if ours else last
            raise Fault(f'{type(error).__name__} from {Path(place.filename).name}:{place.lineno}: '
                        f'{str(error)[:200]}') from error
        finally:
            signal.alarm(0)
    said = re.sub(r"'[^']*'|\S*/\S*|\d+", '#', said)
    return said[:160]


def _work(kind: str, seeds, first: int, until: float, keep: Path, results) -> None:
    """Inputs of a kind, each from its own seed, until the time is over; each is on disk before it is read."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # the image libraries' own messages
    suffix, sound, read = seeds[kind]
    number = first
    current = keep / f'{kind.replace(" ", "_")}_current{suffix}'
    while time.monotonic() < until:
        content = make_input(suffix, sound, random.Random(f'{kind} {number}'))
        current.write_bytes(content)
        try:
            results.put((number, 'said', run_one(suffix, content, read)))
        except Fault as fault:
            shutil.copy(current, keep / f'{kind.replace(" ", "_")}_{number}{suffix}')
            results.put((number, 'fault', str(fault)))
        number += 1
    current.unlink()


def fuzz(kind: str, seeds, first: int, seconds: float, keep: Path) -> tuple[int, collections.Counter, list[str]]:
    """Inputs of a kind for some seconds, in a process of their own, which they may kill.

    Returns:
        The number of inputs, how often each answer was given ('' is: taken), and the faults.
    """
    context = multiprocessing.get_context('fork')
    answers, faults, number = collections.Counter(), [], first - 1
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        results = context.SimpleQueue()
        process = context.Process(target=_work, args=(kind, seeds, number + 1, until, keep, results))
        process.start()
        seen = time.monotonic()
        while process.is_alive() or not results.empty():
            if results.empty():
                time.sleep(0.01)
                if time.monotonic() - seen > 3 * LIMIT:
                    process.kill()
                    break
                continue
            number, outcome, text = results.get()
            seen = time.monotonic()
            if outcome == 'fault':
                faults.append(f'{kind} {number}: {text}')
            else:
                answers[text] += 1
        process.join()
        if process.exitcode:
            number += 1
            suffix = seeds[kind][0]
            name = kind.replace(' ', '_')
            (keep / f'{name}_current{suffix}').rename(keep / f'{name}_{number}{suffix}')
            faults.append(f'{kind} {number}: ended with exit code {process.exitcode}')
    return number + 1 - first, answers, faults


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=3, help='for all kinds together (3)')
    parser.add_argument('--kinds', nargs='+', help='only these')
    parser.add_argument('--seed', type=int, help='number of the first input of each kind; at random if left out')
    parser.add_argument('--keep', type=Path, default=Path('fuzz_failures'), help='folder for inputs that show a fault')
    args = parser.parse_args()
    torch.set_num_threads(1)
    first = random.randrange(10 ** 9) if args.seed is None else args.seed
    args.keep.mkdir(parents=True, exist_ok=True)
    total, all_faults = 0, []
    with tempfile.TemporaryDirectory(prefix='segsr_fuzz_') as folder:
        seeds = make_seeds(Path(folder))
        kinds = args.kinds or list(seeds)
        sys.stdout.write(f'seed {first}\n')
        for kind in kinds:
            count, answers, faults = fuzz(kind, seeds, first, 60 * args.minutes / len(kinds), args.keep)
            taken = answers.pop('', 0)
            refused = sum(answers.values())
            sys.stdout.write(f'{kind}: {count} inputs, {taken} taken, {refused} refused in {len(answers)} ways, '
                             f'{len(faults)} faults\n')
            distinct = {re.sub(r'^[^:]*: |\S*/\S*|\d+', '', fault): fault for fault in faults}
            sys.stdout.write(''.join(f'  FAULT {fault}\n' for fault in distinct.values()))
            sys.stdout.flush()
            total += count
            all_faults += faults
    with contextlib.suppress(OSError):
        args.keep.rmdir()
    sys.stdout.write(f'{total} inputs, {len(all_faults)} faults\n')
    return int(bool(all_faults))


if __name__ == '__main__':
    sys.exit(run())
