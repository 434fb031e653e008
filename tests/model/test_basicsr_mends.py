"""What train.py and test.py read and write at their start: in UTF-8, wherever it is, or the reason in one line."""

import io
import locale
import sys
from pathlib import Path

import basicsr.train
import pytest
import yaml
from basicsr.data.data_util import paired_paths_from_meta_info_file
from basicsr.utils import logger as basicsr_logger
from basicsr.utils import options as basicsr_options

from segsr_model.checks import names
from segsr_model.checks.names import check_names
from segsr_model.cli import main
from segsr_model.option_files import read_options
from tests.model.trainings import write_options

NAME = 'Größe 数据'


@pytest.fixture
def ascii_locale():
    """A locale in which files are ASCII unless something else is said, and a terminal that knows no other letters."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, 'C')
    yield
    locale.setlocale(locale.LC_CTYPE, before)


def parse(monkeypatch, *arguments, root):
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', *map(str, arguments)])
    opt, arguments = basicsr_options.parse_options(str(root), True)
    opt['root_path'] = str(root)
    return opt, arguments


def begin(opt, arguments):
    """What train.py does before it makes its logger."""
    assert basicsr.train.load_resume_state(opt) is None
    basicsr.train.make_exp_dirs(opt)
    basicsr.train.copy_opt_file(arguments.opt, opt['path']['experiments_root'])


def spoken(options):
    options.update(name=NAME)
    options['datasets']['val']['name'] = NAME
    return options


def test_an_option_file_is_read_and_copied_in_utf8_whatever_the_locale(options, tmp_path, monkeypatch, ascii_locale):
    folder = tmp_path / NAME
    folder.mkdir()
    base = write_options(spoken(options), folder / 'base.yml')
    base.write_bytes(f'# {NAME}\n'.encode() + yaml.safe_dump(
        yaml.safe_load(base.read_bytes()), allow_unicode=True).encode())
    (folder / 'own.yml').write_text('include: base.yml')
    for file in ('base.yml', 'own.yml'):
        opt, arguments = parse(monkeypatch, folder / file, root=tmp_path)
        assert opt['name'] == opt['datasets']['val']['name'] == NAME
        begin(opt, arguments)
        copied = tmp_path / 'experiments' / NAME / file
        assert read_options(copied)['name'] == NAME and NAME in copied.read_text(encoding='utf-8')


def test_the_command_is_noted_so_that_the_copy_can_be_read_again(options, tmp_path, monkeypatch):
    file = write_options(options, tmp_path / 'own.yml').rename(tmp_path / 'own\x9f.yml')
    opt, arguments = parse(monkeypatch, file, root=tmp_path)
    begin(opt, arguments)
    copied = tmp_path / 'experiments' / 'run' / 'own\x9f.yml'
    assert r'own\x9f.yml' in copied.read_text(encoding='utf-8') and read_options(copied)['name'] == 'run'


def test_the_log_is_in_utf8_whatever_the_locale(tmp_path, monkeypatch, options, ascii_locale):
    parse(monkeypatch, write_options(options, tmp_path / 'own.yml'), root=tmp_path)
    monkeypatch.setattr(basicsr_logger, 'initialized_logger', {})
    logger = basicsr.train.get_root_logger(logger_name='spoken', log_level='INFO', log_file=str(tmp_path / 'log'))
    logger.warning(f'{NAME} \udcff')
    assert f'WARNING: {NAME} \\udcff\n' in (tmp_path / 'log').read_text(encoding='utf-8')


def test_lists_of_images_are_read_in_utf8_whatever_the_locale(tmp_path, ascii_locale):
    (tmp_path / 'list.txt').write_text(f'{NAME}.png (64,64,3)\n'.replace(' 数据', ''), encoding='utf-8')
    paths = paired_paths_from_meta_info_file(['LR', 'HR'], ['lq', 'gt'], str(tmp_path / 'list.txt'), '{}')
    assert paths == [{'lq_path': 'LR/Größe.png', 'gt_path': 'HR/Größe.png'}]


def test_a_terminal_that_lacks_letters_gets_escapes(options, tmp_path, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(written, encoding='ascii', write_through=True))
    file = write_options(options, tmp_path / f'{NAME}.yml')
    assert main(['check', '-opt', str(file)]) == 0
    assert rb'Gr\xf6\xdfe \u6570\u636e.yml: no problems found' in written.getvalue()


def test_a_name_that_the_locale_cannot_make_a_file_of_is_said(monkeypatch):
    monkeypatch.setattr(names.os, 'fsencode', lambda name: name.encode('latin-1'))
    check_names({'name': 'Größe'})
    with pytest.raises(ValueError, match="^name: '数据' cannot be the name of a file, as the locale .*PYTHONUTF8=1$"):
        check_names({'name': '数据'})
    monkeypatch.undo()
    check_names({'name': '数' * 66})
    with pytest.raises(ValueError, match='has 201 bytes; the name of a file has at most 200'):
        check_names({'datasets': {'val': {'name': '数' * 67}}, 'name': 'x'})


@pytest.mark.parametrize('resumed', [False, True])
def test_the_copy_in_the_experiments_folder_can_be_trained_from(options, tmp_path, monkeypatch, resumed):
    folder = tmp_path / 'experiments' / 'run'
    folder.mkdir(parents=True)
    file = write_options(options, folder / 'run.yml')
    file.write_text(f'# kept\n{file.read_text()}')
    opt, arguments = parse(monkeypatch, file, root=tmp_path)
    if resumed:  # the folder stays where it is
        basicsr.train.copy_opt_file(arguments.opt, folder)
    else:
        begin(opt, arguments)
    assert '# kept' in (folder / 'run.yml').read_text() and read_options(folder / 'run.yml')['name'] == 'run'


@pytest.mark.parametrize('function', ['make_exp_dirs', 'mkdir_and_rename', 'copy_opt_file', 'get_root_logger'])
def test_what_cannot_be_written_at_the_start_is_one_line(options, tmp_path, monkeypatch, function):
    opt, arguments = parse(monkeypatch, write_options(options, tmp_path / 'own.yml'), root=tmp_path)
    (tmp_path / 'experiments').symlink_to(tmp_path / 'nowhere')  # the disk has gone since the options were checked
    monkeypatch.setattr('segsr_model.basicsr_mends.own', lambda folder: None)
    monkeypatch.setattr(basicsr_logger, 'initialized_logger', {})
    folder = Path(opt['path']['experiments_root'])
    line = rf"^(the run's folder cannot be used|cannot write)[^\n]*'{tmp_path}/experiments.*$"
    with pytest.raises(SystemExit, match=line):
        {'make_exp_dirs': lambda make: make(opt), 'mkdir_and_rename': lambda make: make(str(folder)),
         'copy_opt_file': lambda copy: copy(arguments.opt, str(folder)),
         'get_root_logger': lambda make: make(logger_name='gone', log_file=str(folder / 'log'))}[function](
            getattr(basicsr.train, function))
