"""A training is killed at random moments, resumed each time, and must end as the one that was never killed.

    python soak/kill_training.py [--kills 50] [--seed 0]

Prints what it was resumed from; exit code 1 if the results differ by a bit, or if a good checkpoint was lost.
"""

import argparse
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import segsr_arch  # noqa: E402, F401  isort: skip  (first, so that basicsr is mended before anything imports it)
from segsr_model.training.checkpoints import states_in  # noqa: E402
from tests.model.trainings import differences, result, start, train, write_demo  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--kills', type=int, default=50)
parser.add_argument('--seed', type=int, default=0)
args = parser.parse_args()
chance = random.Random(args.seed)

with tempfile.TemporaryDirectory() as folder:
    straight, killed = Path(folder) / 'straight', Path(folder) / 'killed'
    for root in (straight, killed):
        root.mkdir()
    options, name = write_demo(Path(folder), iterations=200, save_freq=5, val_freq=20, workers=1)
    begin = time.monotonic()
    code, output = train(straight, options)
    assert code == 0, output
    whole = time.monotonic() - begin
    sys.stdout.write(f'uninterrupted: {whole:.1f} s\n')

    states = killed / 'experiments' / name / 'training_states'
    kills, ended, last = 0, False, 0
    before = []
    while kills < args.kills:
        process = start(killed, options, '--auto_resume')
        process.join(chance.uniform(0.5, 1.2) * whole / 8)
        if process.exitcode is None:
            process.kill()
            process.join()
        output = (killed / 'output.txt').read_text()
        resumed = re.search(r'Resuming training from epoch: \d+, iter: (\d+)', output)
        iteration = int(resumed.group(1)) if resumed else 0
        if resumed and before and iteration < max(before):
            sys.exit(f'resumed from {iteration}, though {max(before)} was complete:\n{output}')
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            before = [int(path.stem) for path in states_in(states)]
            sys.stdout.write(f'kill {kills}: resumed from {iteration}, killed after {max(before, default=0)}\n')
        elif process.exitcode:
            sys.exit(output)
        else:  # came to its end: begin another run
            assert differences(result(straight, name), result(killed, name)) == []
            sys.stdout.write('came to its end, equal bit for bit: begun again\n')
            (killed / 'experiments').rename(killed / f'done{kills}')
            before = []
    code, output = train(killed, options, '--auto_resume')
    assert code == 0, output
    different = differences(result(straight, name), result(killed, name))
    sys.stdout.write(f'{kills} kills; '
                     f'{f"they differ: {different[:5]}" if different else "the results are equal bit for bit"}\n')
    sys.exit(bool(different))
