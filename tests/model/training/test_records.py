"""Logs, lists and TensorBoard's files that cannot be written end nothing."""

import logging

import pytest
from basicsr.utils import logger as basicsr_logger

from segsr_model.training.records import Curves, get_root_logger, note
from segsr_model.training.training_run import TrainingRun


@pytest.fixture
def new_logger(monkeypatch):
    """The name of a logger that nobody has used; its handlers are closed at the end."""
    monkeypatch.setattr(basicsr_logger, 'initialized_logger', {})
    yield 'test_records'
    for handler in logging.getLogger('test_records').handlers[:]:
        logging.getLogger('test_records').removeHandler(handler)


def test_a_log_on_a_full_disk_is_said_once(new_logger, capsys):
    logger = get_root_logger(new_logger, log_file='/dev/full')
    logger.handlers[0].setLevel('CRITICAL')  # the one on the screen
    for _ in range(3):
        logger.info('a line')
    said = capsys.readouterr().err
    assert said == "cannot write '/dev/full', the run goes on: [Errno 28] No space left on device\n"


def test_a_log_that_can_be_written_is_basicsrs(new_logger, tmp_path):
    get_root_logger(new_logger, log_file=str(tmp_path / 'run.log')).info('a line')
    assert (tmp_path / 'run.log').read_text().endswith('INFO: a line\n')


def test_a_log_that_cannot_be_made_ends_the_run_before_it_begins(new_logger, tmp_path):
    with pytest.raises(SystemExit, match=rf"^cannot write '{tmp_path}/none/run\.log': No such file or directory$"):
        get_root_logger(new_logger, log_file=f'{tmp_path}/none/run.log')


def test_a_list_that_cannot_be_written_is_a_warning(log):
    note('/dev/full', ['a'])
    assert log.messages == ["cannot write '/dev/full': No space left on device."]


class Writer:
    """TensorBoard's: it fails from the third scalar on."""

    def __init__(self):
        self.scalars, self.closed = [], False

    def add_scalar(self, *scalar):
        if len(self.scalars) == 2:
            raise OSError(28, 'No space left on device')
        self.scalars.append(scalar)

    def close(self):
        self.closed = True


def test_tensorboard_is_given_up_when_it_cannot_write(log, monkeypatch):
    for scalars in (2, 5):
        writer = Writer()
        monkeypatch.setattr('segsr_model.training.training_run.init_tb_loggers', lambda opt, writer=writer: writer)
        curves = TrainingRun().init_tb_loggers({})
        for i in range(scalars):
            curves.add_scalar('losses/l_pix', 0.5 * i, i)
        curves.close()
        assert writer.scalars == [('losses/l_pix', 0.0, 0), ('losses/l_pix', 0.5, 1)]
        assert writer.closed == (scalars == 2)
    assert log.messages == ['No more is written for TensorBoard: [Errno 28] No space left on device']
    monkeypatch.setattr('segsr_model.training.training_run.init_tb_loggers', lambda opt: None)
    assert TrainingRun().init_tb_loggers({}) is None and isinstance(curves, Curves)
