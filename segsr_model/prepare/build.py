"""Making the planned pairs: parallel, resumable, and complete or not there at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from tqdm import tqdm

from segsr_model.errors import CommandError
from segsr_model.files import remove_leftovers, write_file
from segsr_model.images.plain import ImageError, ImageFile
from segsr_model.prepare.manifest import JOURNAL, MANIFEST, Journal, read_manifest, write_manifest
from segsr_model.prepare.pairs import make_pairs
from segsr_model.prepare.plan import Item, OpenScene
from segsr_model.prepare.sources.archives import Source

PARTIAL = '.partial'


@dataclasses.dataclass(frozen=True)
class Job:
    """A data set that is to be made.

    Attributes:
        items: What to make; each has a part in ``split``.
        split: Item name to ``'train'``, ``'val'`` or ``'test'``.
        source: Where the images come from.
        open_scene: How an image of the source is opened.
        least: The least height and width of a training image.
        side: The usual height and width of an image; none: there is none.
        settings: What decides the result, but for the scale; plain values for the manifest.
    """

    items: Sequence[Item]
    split: dict[str, str]
    source: Source
    open_scene: OpenScene
    least: int
    side: int | None
    settings: dict


def build(job: Job, *, out: Path, scales: Sequence[int], workers: int) -> None:
    """Make ``<out>/x<scale>`` for each scale, none of which is complete; of one that is there, only what is missing.

    The work is done in ``<out>/.partial`` and moved to its place when it is complete. After an interruption, finished
    pairs stay there and the next run with the same settings goes on from them; after bad input nothing stays.

    Raises:
        CommandError: Images cannot be used; all of them are named.
    """
    partial = out / PARTIAL
    folders = {scale: partial / f'x{scale}' for scale in scales}
    reopened = [folder for folder in folders.values() if (out / folder.name).exists()]
    with contextlib.ExitStack() as stack:
        journals = {}
        for folder in reopened:
            _reopen(out / folder.name, folder)
        for scale, folder in folders.items():
            journals[scale] = Journal(folder, {**job.settings, 'scale': scale})
            stack.callback(journals[scale].close)
            for part in set(job.split.values()):
                for kind in ('HR', 'LR'):
                    (folder / part / kind).mkdir(parents=True, exist_ok=True)
                    remove_leftovers(folder / part / kind)
        try:
            _make_all(job, folders, journals, twin_folders=[*folders.values(), *out.glob('x*')], workers=workers)
        except CommandError:
            for folder in reopened:
                (folder / JOURNAL).unlink()
                os.replace(folder, out / folder.name)
            shutil.rmtree(partial)
            with contextlib.suppress(OSError):  # not empty
                out.rmdir()
            raise
    for scale, folder in folders.items():
        _finish(job, folder, journals[scale], {**job.settings, 'scale': scale})
        os.replace(folder, out / f'x{scale}')
    with contextlib.suppress(OSError):  # another run's unfinished scales may be there
        partial.rmdir()


def is_complete(job: Job, folder: Path, *, scale: int) -> bool:
    """Whether a folder holds what the job would make at a scale, all of it as far as the names of its files tell.

    Raises:
        CommandError: It holds something else.
    """
    if not folder.exists():
        return False
    if not (folder / MANIFEST).exists():
        raise CommandError(f'{folder} exists and was not made by "segsr prepare": remove it or choose another --out')
    records = _read_like(folder, {**job.settings, 'scale': scale})
    lists = [folder / 'odd_sizes.txt', *(folder / part / 'meta_info.txt' for part in set(job.split.values()))]
    return len(_with_files(folder, records)) == len(job.items) and all(path.exists() for path in lists)


def refuse_mixture(job: Job, out: Path) -> None:
    """Raise a CommandError if a scale in ``out`` is of other images than the job's, or of another split."""
    for manifest in sorted(out.glob(f'x*/{MANIFEST}')):
        _read_like(manifest.parent, {key: job.settings[key] for key in ('plan', 'sources')})


def _read_like(folder: Path, settings: dict) -> list[dict]:
    """The pairs of a finished data set. Raises CommandError if it was made with other ``settings``."""
    found, records = read_manifest(folder / MANIFEST)
    changed = sorted(key for key in settings if found.get(key) != settings[key])
    if changed:
        raise CommandError(f'{folder} was made from other images or with other settings ({", ".join(changed)}): remove '
                           'it or choose another --out')
    return records


def _with_files(folder: Path, records: Sequence[dict]) -> list[dict]:
    """Those of a manifest's pairs whose two files are there."""
    places = {(part, kind): folder / part / kind for part in {record['part'] for record in records}
              for kind in ('HR', 'LR')}
    there = {key: set(os.listdir(place)) if place.is_dir() else set() for key, place in places.items()}
    return [record for record in records
            if all(f'{record["name"]}.png' in there[record['part'], kind] for kind in ('HR', 'LR'))]


def _reopen(folder: Path, partial: Path) -> None:
    """Move a finished data set, whose files are not all there, back to where it is made, and note what it has."""
    settings, records = read_manifest(folder / MANIFEST)
    write_manifest(folder / JOURNAL, settings, _with_files(folder, records))
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(exist_ok=True)
    os.replace(folder, partial)


def _make_all(
    job: Job, folders: dict[int, Path], journals: dict[int, Journal], *, twin_folders: Sequence[Path], workers: int,
) -> None:
    """Make each pair that no journal holds. Raises CommandError in the end, if a source file could not be used."""
    work: dict[str, list[tuple[Item, dict[int, Path]]]] = defaultdict(list)
    for item in job.items:
        open_folders = {scale: folder for scale, folder in folders.items() if item.name not in journals[scale].records}
        if open_folders:
            work[item.path].append((item, open_folders))

    def make(file: ImageFile, tasks: list[tuple[Item, dict[int, Path]]]) -> list[dict[int, dict]]:
        with contextlib.closing(job.open_scene(file)) as scene:
            return [
                make_pairs(scene, item, part=job.split[item.name], least=job.least, folders=open_folders,
                           twin_folders=twin_folders)
                for item, open_folders in tasks
            ]

    problems = []
    bar = tqdm(total=len(job.items), initial=len(job.items) - sum(map(len, work.values())), unit='image', disable=None)

    def collect(futures: set[Future], paths: dict[Future, str]) -> None:
        for future in futures:
            path = paths.pop(future)
            bar.update(len(work[path]))
            try:
                for records in future.result():
                    for scale, record in records.items():
                        journals[scale].add(record)
            except ImageError as error:
                problems.append(f'{path}: {error}')

    with bar, ThreadPoolExecutor(workers) as pool:
        paths: dict[Future, str] = {}
        for path in filter(work.__contains__, job.source.sizes):  # archives are read here, in their own order
            try:
                paths[pool.submit(make, job.source.open(path), work[path])] = path
            except OSError as error:
                problems.append(f'{path}: {error}')
            if len(paths) >= 2 * workers:
                collect(wait(paths, return_when=FIRST_COMPLETED).done, paths)
        collect(wait(paths).done, paths)
    if problems:
        shown = '; '.join(sorted(problems)[:10]) + f'; and {len(problems) - 10} more' * (len(problems) > 10)
        raise CommandError(f'{len(problems)} unusable images, nothing was written: {shown}')


def _finish(job: Job, folder: Path, journal: Journal, settings: dict) -> None:
    """Write what stands beside the images: BasicSR's meta-info files, the list of odd sizes, the manifest."""
    usual = job.side and [job.side, job.side]
    records = sorted(journal.records.values(), key=lambda record: record['name'])
    for part in set(job.split.values()):
        lines = [
            f'{record["name"]}.png ({record["hr_size"][0]},{record["hr_size"][1]},3)\n'
            for record in records if record['part'] == part
        ]
        write_file(folder / part / 'meta_info.txt', ''.join(lines).encode())
    odd = [
        '{part} {name}: {source_size[0]} x {source_size[1]}, HR {hr_size[0]} x {hr_size[1]}\n'.format(**record)
        for record in records if not (usual or record['source_size']) == record['source_size'] == record['hr_size']
    ]
    write_file(folder / 'odd_sizes.txt', ''.join(odd).encode())
    write_manifest(folder / MANIFEST, settings, records)
    journal.close(remove=True)
