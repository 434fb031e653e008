"""The command ``segsr`` where something is missing, too large or full."""

import runpy
import sys

import pytest

import segsr_model
from segsr_model import cli
from segsr_model.cli import COMMANDS, main
from tests import ROOT


@pytest.fixture
def without(monkeypatch):
    """Makes the modules of commands fail as they do without a package, or with one that is half there."""
    def hide(error):
        def import_module(name):
            raise error
        monkeypatch.setattr(cli.importlib, 'import_module', import_module)
    return hide


@pytest.mark.parametrize('error', [
    ModuleNotFoundError("No module named 'basicsr'", name='basicsr'),
    ImportError('libGL.so.1: cannot open shared object file: No such file or directory'),
    OSError('libtorch_cuda.so: cannot open shared object file'),
    RuntimeError('operator torchvision::nms does not exist')])
def test_a_missing_package_is_one_line_and_help_says_what_it_can(without, capsys, error):
    without(error)
    for command in COMMANDS:
        assert main([command, 'anything']) == 2
        assert capsys.readouterr().err == (f'segsr {command}: error: a package is missing, or cannot be loaded: '
                                           f'{error}; README.md, under Installing, tells what is needed\n')
        assert main([command, '--help']) == 2
        captured = capsys.readouterr()
        assert captured.err.count('\n') == 1 and captured.out.startswith(f'segsr {command}: ')
        assert len(captured.out.splitlines()) > 1
    assert 'a self-contained file for release' in captured.out  # what the module of the last one, export, says


def test_help_of_the_whole_needs_no_package(without, capsys):
    without(ImportError('none'))
    with pytest.raises(SystemExit) as error:
        main(['--help'])
    assert error.value.code == 0 and 'prepare' in capsys.readouterr().out


def test_a_package_that_is_imported_late_is_said_too(monkeypatch, capsys, tmp_path):
    def run(args):
        raise ModuleNotFoundError("No module named 'rasterio'")

    monkeypatch.setattr('segsr_model.report.score_table.run', run)
    assert main(['scores', str(tmp_path)]) == 2
    assert "No module named 'rasterio'" in capsys.readouterr().err


def test_the_package_says_what_is_missing_instead_of_failing(monkeypatch):
    assert segsr_model.missing is None
    monkeypatch.setitem(sys.modules, 'segsr_model.semantic_guided_sr_model', None)
    found = runpy.run_path(str(ROOT / 'segsr_model' / '__init__.py'))
    assert isinstance(found['missing'], ImportError) and 'semantic_guided_sr_model' in str(found['missing'])


@pytest.mark.parametrize('launcher', ['train', 'test'])
def test_the_launchers_say_it_in_one_line(monkeypatch, launcher):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(segsr_model, 'missing', ModuleNotFoundError("No module named 'basicsr'"))
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(ROOT / 'basicsr' / f'{launcher}.py'))
    assert str(error.value).startswith("a package is missing, or cannot be loaded: No module named 'basicsr'; README")


@pytest.mark.parametrize(('error', 'code', 'said'), [
    (PermissionError(13, 'Permission denied', 'results/x'), 2, "error: 'results/x': Permission denied\n"),
    (OSError(36, 'File name too long', 'x' * 9), 2, "error: 'xxxxxxxxx': File name too long\n"),
    (RuntimeError('CUDA out of memory'), 2, 'error: not enough memory\n'), (MemoryError(), 2, 'not enough memory\n'),
    (KeyboardInterrupt(), 130, 'segsr scores: interrupted\n')])
def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, error, code, said):
    def run(args):
        raise error

    monkeypatch.setattr('segsr_model.report.score_table.run', run)
    assert main(['scores', 'x']) == code
    text = capsys.readouterr().err
    assert text.endswith(said) and text.count('\n') == 1


def test_a_fault_of_our_own_keeps_its_traceback(monkeypatch):
    def run(args):
        raise ZeroDivisionError

    monkeypatch.setattr('segsr_model.report.score_table.run', run)
    with pytest.raises(ZeroDivisionError):
        main(['scores', 'x'])


def test_an_output_that_nobody_reads_to_its_end_is_no_fault(monkeypatch):
    def run(args):
        raise BrokenPipeError

    monkeypatch.setattr('segsr_model.report.score_table.run', run)
    moved = []
    monkeypatch.setattr(cli.os, 'dup2', lambda source, target: moved.append(target))
    monkeypatch.setattr(sys.stdout, 'fileno', lambda: 1)
    assert main(['scores', 'x']) == 0 and moved == [1]
