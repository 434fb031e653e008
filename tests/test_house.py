"""The rooms of the house: docs/architecture.md describes them. Each may use those that are named before it."""

import ast

import pytest

from tests import ROOT

ROOMS = [
    'segsr_arch.options', 'segsr_arch.registration', 'segsr_arch.layers', 'segsr_arch.clip', 'segsr_arch.baselines',
    'segsr_arch.backbones', 'segsr_arch.sfem', 'segsr_arch.slm', 'segsr_arch.lmm', 'segsr_arch.guidance',
    'segsr_arch.segsr_arch', 'segsr_arch',
    'segsr_model.errors', 'segsr_model.files', 'segsr_model.option_files', 'segsr_model.images', 'segsr_model.weights',
    'segsr_model.training', 'segsr_model.prepare.sources', 'segsr_model.prepare', 'segsr_model.testing',
    'segsr_model.scenes',
    'segsr_model.report', 'segsr_model.figures', 'segsr_model.cost', 'segsr_model.checks',
    'segsr_model.semantic_guided_sr_model', 'segsr_model.basicsr_mends', 'segsr_model', 'segsr_model.cli',
]
MOST_FILES = 12
FILES = sorted(path.relative_to(ROOT) for package in ('segsr_arch', 'segsr_model')
               for path in ROOT.glob(f'{package}/**/*.py'))


def module_of(path):
    return '.'.join(path.with_suffix('').parts).removesuffix('.__init__')


def room_of(module):
    """The room that a module, or a name in it, belongs to."""
    parts = module.split('.')
    return next(room for end in range(len(parts), 0, -1) if (room := '.'.join(parts[:end])) in ROOMS)


def imported(path):
    """The modules, or names in modules, that a file imports from the two packages, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith('segsr_'))
        elif isinstance(node, ast.ImportFrom) and node.module.startswith('segsr_'):
            yield from (f'{node.module}.{name.name}' for name in node.names)


@pytest.mark.parametrize('path', FILES, ids=str)
def test_a_file_imports_from_rooms_below_only(path):
    own = room_of(module_of(path))
    above = [module for module in imported(path) if ROOMS.index(room_of(module)) > ROOMS.index(own)]
    assert not above


def test_no_folder_is_crowded():
    folders = {folder: len(list((ROOT / folder).glob('*.py'))) for folder in {path.parent for path in FILES}}
    assert {folder: count for folder, count in folders.items() if count > MOST_FILES} == {}


def test_the_rooms_are_those_of_the_drawing():
    text = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    folders = {path.parent.as_posix() for path in FILES} - {'segsr_arch', 'segsr_model'}
    assert [folder for folder in sorted(folders) if f'`{folder}/`' not in text] == []
