"""The demo trains, validates, saves and is resumed in a loop; memory, open files and processes must stay level.

    python soak/stay_level.py [--iterations 600] [--resumes 6]

Each part of the training prints its memory (MB), open files, threads and processes every 20 iterations, after the first
of which they may not grow by more than 10 %, or at all. Exit code 1 if they do.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import segsr_arch  # noqa: E402, F401  isort: skip  (first, so that basicsr is mended before anything imports it)
from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel  # noqa: E402
from tests.model.trainings import train, write_demo  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--iterations', type=int, default=600)
parser.add_argument('--resumes', type=int, default=6)
args = parser.parse_args()


def children(process):
    """The processes that a process has started and that still are there, however deep."""
    own = [int(child) for task in Path(f'/proc/{process}/task').iterdir()
           for child in (task / 'children').read_text().split()]
    return own + [deeper for child in own for deeper in children(child)]


def usage():
    """Memory (MB), open files, threads and child processes of this process."""
    status = Path('/proc/self/status').read_text()
    number = {key: int(re.search(rf'{key}:\s+(\d+)', status).group(1)) for key in ('VmRSS', 'Threads')}
    return number['VmRSS'] // 1024, len(os.listdir('/proc/self/fd')), number['Threads'], len(children(os.getpid()))


def report():
    """For ``before``: print the usage every 20 iterations, when nothing is being written."""
    update = SemanticGuidedSRModel.update_learning_rate

    def reporting(self, current_iter, warmup_iter=-1):
        if current_iter % 20 == 0:
            self.writer.wait()
            sys.stdout.write(f'usage {current_iter} {" ".join(map(str, usage()))}\n')
        update(self, current_iter, warmup_iter)

    SemanticGuidedSRModel.update_learning_rate = reporting


with tempfile.TemporaryDirectory() as folder:
    options, name = write_demo(Path(folder), iterations=args.iterations, save_freq=10, val_freq=20, workers=1)
    part = args.iterations // args.resumes
    level, files = True, set()
    sys.stdout.write('iteration  memory (MB)  open files  threads  processes\n')
    for end in range(part, args.iterations + 1, part):
        code, output = train(folder, options, '--auto_resume', '--force_yml', f'train:total_iter={end}', before=report)
        assert code == 0, output
        rows = [tuple(map(int, row)) for row in re.findall(r'^usage (\d+) (\d+) (\d+) (\d+) (\d+)$', output, re.M)]
        for row in rows:
            sys.stdout.write('{:9d}  {:11d}  {:10d}  {:7d}  {:9d}\n'.format(*row))
        first, later = rows[1], rows[2:]
        level &= all(row[1] <= 1.1 * first[1] and all(a <= b for a, b in zip(row[2:], first[2:])) for row in later)
        files.add(sum(path.suffix in ('.pth', '.state') for path in Path(folder, 'experiments', name).rglob('*')))
        sys.stdout.write(f'resumed; {len(children(os.getpid()))} processes left over\n')
    sys.stdout.write(f'{args.iterations} iterations, {args.resumes} starts: '
                     f'{"level" if level and len(files) == 1 else "NOT level"}; checkpoint files: {sorted(files)}\n')
    sys.exit(not level or len(files) > 1)
