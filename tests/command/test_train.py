"`train` as a scheduler runs it: one line begins a run, goes on with it after a signal, and lengthens it"
import json, os, signal, subprocess, sys, time

import pytest
from small_dataset import make_folder
from terminal import COMMAND, run

from paligemma_vqa.model.info import AdapterInfo
from paligemma_vqa.training.config import TrainingConfig


@pytest.fixture(scope='module')
def data(tmp_path_factory): return make_folder(tmp_path_factory.mktemp("it's") / 'data', videos=4, frames=3, size=48)


def facts(folder): return json.loads((folder / 'run.json').read_text())


WRITING = '''
import os, signal, sys, threading
from transformers import TrainerControl
from paligemma_vqa.training.progress import StopOnSignal
stop, control = StopOnSignal(), TrainerControl()
with stop.listening():
    print('writing', flush=True)
    sys.stderr.write('x' * 200_000)
    sys.stderr.flush()
    stop.on_step_end(None, None, control)
print(control.should_save)
'''


@pytest.mark.slow
def test_a_signal_in_the_middle_of_a_line_is_heard():
    "Python refuses to write a line within another: the progress bar of a terminal that is slow, or that nobody reads"
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONUNBUFFERED'}
    process = subprocess.Popen([sys.executable, '-c', WRITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == 'writing\n'
    time.sleep(.5)   # the pipe is full, and the process waits for somebody to read
    process.send_signal(signal.SIGUSR1)
    time.sleep(.5)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, 'True\n') and error.strip('x') == 'SIGUSR1: saving after this update. Ctrl-C again to stop at once.\n', error[-2000:]


TOGETHER = '''
import sys
from torch import distributed
from transformers import TrainerControl
from paligemma_vqa.training.progress import StopOnSignal
distributed.init_process_group('gloo', init_method=f'file://{sys.argv[1]}', rank=int(sys.argv[2]), world_size=2)
stop, control = StopOnSignal(), TrainerControl()
stop.on_step_end(None, None, control)
first = control.should_training_stop
if sys.argv[2] == '1': stop.received = 'SIGTERM'
stop.on_step_end(None, None, control)
print(first, control.should_training_stop, control.should_save)
'''


@pytest.mark.slow
def test_processes_that_train_together_stop_after_the_same_update(tmp_path):
    "A signal reaches one of them a moment before the other, or only one"
    both = [subprocess.Popen([sys.executable, '-c', TOGETHER, tmp_path / 'meeting', str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    assert [process.communicate(timeout=100)[0] for process in both] == ['False True True\n'] * 2


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_line_goes_on(data, tmp_path, number):
    words = ['train', '--data', str(data), '--model', 'tiny', '--output', str(tmp_path / 'run'), '--resume', '--set', 'max_steps=9', '--set', 'eval_steps=2', '--set', 'workers=2', '--json']
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not any((tmp_path / 'run/checkpoints').glob('checkpoint-*')): assert process.poll() is None, process.stderr.read(); time.sleep(0.05)
    os.killpg(process.pid, number)                                     # the processes that load pictures hear it, too
    out, error = process.communicate(timeout=200)
    assert process.returncode == 130, error
    assert f'{number.name}: saving after this update' in error
    assert [line for line in error.splitlines() if line.startswith('Error:')] == [f'Error: {tmp_path / "run"}: stopped before the end. Add --resume to go on.']
    assert json.loads(out)['status'] == facts(tmp_path / 'run')['status'] == 'interrupted'   # what came of it so far, and nothing else
    updates = facts(tmp_path / 'run')['updates']
    done = run(*words)                                                # as a scheduler puts it back into its queue
    assert done.returncode == 0 and json.loads(done.stdout)['status'] == facts(tmp_path / 'run')['status'] == 'finished'
    assert updates < 9 == facts(tmp_path / 'run')['updates'] and AdapterInfo.load(tmp_path / 'run/adapter')
    again = run(*words)                                               # a finished run is finished, however often it is asked for
    assert again.returncode == 0 and json.loads(again.stdout)['seconds'] == 0


DEMO = 'import sys; from paligemma_vqa.command.demo import run_demo; run_demo(sys.argv[1], videos=12)'


@pytest.mark.slow
def test_a_demo_that_is_stopped_shows_no_result(tmp_path):
    "What half an adapter answers is not what the demo is about"
    with open(tmp_path / 'told', 'w') as told: process = subprocess.Popen([sys.executable, '-c', DEMO, str(tmp_path / 'demo')], stdout=told, stderr=told)
    def said(): return (tmp_path / 'told').read_text()
    while '| 2/' not in said(): assert process.poll() is None, said(); time.sleep(.05)   # the second update is made
    process.send_signal(signal.SIGTERM)
    process.wait(200)
    error = said()
    assert process.returncode == 1 and 'VQAError' in error and 'the demo was stopped. Run it again: it begins anew.' in error, error
    assert not (tmp_path / 'demo/report.json').exists() and not (tmp_path / 'demo/video').exists()


@pytest.mark.slow
def test_a_finished_run_is_lengthened_by_its_folder_alone(data, tmp_path):
    folder = tmp_path / 'run'
    assert run('train', '--data', data, '--model', 'tiny', '--output', folder, '--epochs', '1').returncode == 0
    first = facts(folder)['updates']
    done = run('train', '--output', folder, '--resume', '--epochs', '3')
    assert done.returncode == 0, done.stderr
    assert facts(folder)['updates'] == 3 * first and TrainingConfig.load(folder / 'config.yaml').epochs == 3
    assert 'epochs 3.0 (1.0 before)' in (folder / 'adapter/README.md').read_text()
    shorter = run('train', '--output', folder, '--resume', '--epochs', '1')
    assert shorter.returncode in (0, 2) and 'Traceback' not in shorter.stderr, shorter.stderr
