"""SIGTERM and SIGINT: the iteration is finished, all is saved, and the run goes on as if nothing had been."""

import os
import signal

import pytest

from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel
from segsr_model.training import interrupts
from segsr_model.training.interrupts import EXIT_CODE, StopRequest
from tests.model.trainings import differences, result, start, train, until, write_options


@pytest.fixture
def option_file(options, tmp_path):
    options['network_g']['semantic']['encoder']['lora_dropout'] = 0.2
    options['datasets']['train']['dataset_enlarge_ratio'] = 3
    options['train']['total_iter'] = 8
    options['val'].update(val_freq=4, save_img=False)
    options['logger'].update(save_checkpoint_freq=8, use_tb_logger=False)
    return write_options(options, tmp_path / 'tiny.yml')


def signal_at(method, call, *signals):
    """For ``before``: send this process the signals at the nth call of a method of the model."""
    def prepare():
        original, calls = getattr(SemanticGuidedSRModel, method), 0

        def wrapped(self, *args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                for number in signals:
                    os.kill(os.getpid(), number)
            return original(self, *args, **kwargs)

        setattr(SemanticGuidedSRModel, method, wrapped)
    return prepare


def test_a_signal_saves_and_the_resumed_run_is_the_same(option_file, tmp_path):
    straight, stopped = tmp_path / 'straight', tmp_path / 'stopped'
    for folder in (straight, stopped):
        folder.mkdir()
    assert train(straight, option_file)[0] == 0

    code, output = train(stopped, option_file, '--auto_resume',
                         before=signal_at('optimize_parameters', 3, signal.SIGTERM))
    assert code == EXIT_CODE == 75 and 'Stopped by SIGTERM after iteration 3. Go on with --auto_resume.' in output
    # the third image of the validation at 4, and the one repeated when resumed; SIGTERM follows a terminal's SIGINT
    code, output = train(stopped, option_file, '--auto_resume',
                         before=signal_at('test', 3, signal.SIGINT, signal.SIGTERM))
    assert code == EXIT_CODE and 'Stopped by SIG' in output and 'after iteration 4' in output
    assert 'iter: 3.' in output and 'Validation pairs' not in output and 'broken off' in output
    code, output = train(stopped, option_file, '--auto_resume', before=signal_at('test', 2, signal.SIGINT))
    assert code == EXIT_CODE and 'SIGINT' in output and 'iter: 4.' not in output.split('Start training')[-1]
    code, output = train(stopped, option_file, '--auto_resume')
    assert code == 0, output
    assert output.index('Validation pairs') < output.index('Start training from epoch: 0, iter: 4')
    assert differences(result(straight), result(stopped)) == []


def test_the_same_signal_again_ends_at_once(option_file, tmp_path):
    code, output = train(tmp_path, option_file, before=signal_at('feed_data', 2, signal.SIGTERM, signal.SIGTERM))
    assert code == -signal.SIGTERM and 'once more stops at once' in output
    assert not list(tmp_path.rglob('*.state'))


def test_a_signal_to_the_whole_group_spares_the_data_workers(option_file, tmp_path):
    process = start(tmp_path, option_file, '--force_yml', 'datasets:train:num_worker_per_gpu=2',
                    'train:total_iter=9999', 'val:val_freq=9999', before=os.setsid)
    until(lambda: 'iter:       2' in (tmp_path / 'output.txt').read_text(), lambda: process.exitcode)
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGTERM)
    process.join()
    output = (tmp_path / 'output.txt').read_text()
    assert process.exitcode == EXIT_CODE, output
    assert len(list(tmp_path.rglob('*.state'))) == 1


def test_a_checkpoint_that_cannot_be_saved_is_not_passed_off_as_an_interruption(option_file, tmp_path):
    def prepare():
        def full(descriptor):
            raise OSError(28, 'No space left on device')

        signal_at('optimize_parameters', 2, signal.SIGTERM)()
        os.fsync = full

    code, output = train(tmp_path, option_file, before=prepare)
    assert code == 1 and 'could not save' in output and 'No space left on device' in output
    assert 'Traceback' not in output


def test_only_this_process_is_asked_without_distributed_training():
    stop = StopRequest()
    assert not stop.agreed() and not stop.agreed_in_passing()
    stop.name = 'SIGTERM'
    assert stop.requested() and stop.agreed() and stop.agreed_in_passing()
    assert signal.SIGKILL not in interrupts.SIGNALS
