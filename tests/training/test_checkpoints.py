"Runs that are cut short, damaged, preempted, lengthened or go wrong: what is whole goes on, everything else is one sentence"
import json, shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from paligemma_vqa.dataset.records import read_records
from paligemma_vqa.inference.predictor import Predictor
from paligemma_vqa.model.adapter import AdapterInfo, load_adapter
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.training.checkpoints import damage, newest_whole
from paligemma_vqa.training.config import TrainingConfig
from paligemma_vqa.training.run import finetune
from random_base import make_base
from small_dataset import make_folder


@pytest.fixture(scope='module')
def base(tmp_path_factory): return make_base(tmp_path_factory.mktemp('base') / 'random')


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return make_folder(tmp_path_factory.mktemp('data') / 'd')


@pytest.fixture(scope='module')
def config(base):
    torch.set_num_threads(1)
    return TrainingConfig(base=str(base), precision='fp32', learning_rate=5e-3, max_steps=6, eval_steps=2, batch_size=4, accumulation_steps=1, log_steps=3,
                          lora_dropout=0.1, tensorboard=False)


class StopAfter(TrainerCallback):
    "As if the machine were taken away"
    def __init__(self, step): self.step = step
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step: raise KeyboardInterrupt


@pytest.fixture(scope='module')
def whole(folder, config, tmp_path_factory): return finetune(folder, tmp_path_factory.mktemp('whole') / 'run', config, progress=False)


@pytest.fixture(scope='module')
def cut(folder, config, tmp_path_factory):
    "A run that stopped after update 5, with checkpoints of updates 2 and 4"
    run = tmp_path_factory.mktemp('cut') / 'run'
    with pytest.raises(KeyboardInterrupt): finetune(folder, run, config, progress=False, callbacks=[StopAfter(5)])
    return run


def losses(history): return [(h['step'], h['loss']) for h in history if 'loss' in h]


def same_weights(a, b):
    a, b = (load_file(Path(run) / 'adapter' / 'adapter_model.safetensors') for run in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_going_on_needs_only_the_folder_and_gives_the_same_curve(cut, whole, tmp_path):
    shutil.copytree(cut, run := tmp_path / 'run')
    result = finetune(None, run, resume=True, progress=False)
    assert result.status == 'finished' and losses(result.history) == losses(whole.history)   # update 6 is logged for updates 4 to 6, and 4 was before
    assert same_weights(run, whole.run_dir)
    again = finetune(None, run, resume=True, progress=False)
    assert again.status == 'finished' and again.metrics == result.metrics and again.seconds == 0


PLACES = {'gone': None, 'empty': 0., 'first byte': 0.01, 'half': 0.5, 'last byte': 0.999}


@pytest.mark.parametrize('place', PLACES)
def test_every_file_of_a_checkpoint_damaged_at_five_places_is_found(cut, tmp_path, place):
    shutil.copytree(cut / 'checkpoints', folder := tmp_path / 'checkpoints')
    newest = folder / 'checkpoint-4'
    assert damage(newest) is None
    for file in sorted(path for path in newest.rglob('*') if path.is_file()):
        content = file.read_bytes()
        if place == 'gone': file.unlink()
        elif place == 'empty': file.write_bytes(b'')
        elif place == 'half': file.write_bytes(content[:len(content) // 2])
        else:
            at = min(int(len(content) * PLACES[place]), len(content) - 1)
            file.write_bytes(content[:at] + bytes([content[at] ^ 0xff]) + content[at + 1:])
        taken, skipped = newest_whole(folder)
        assert taken == folder / 'checkpoint-2' and len(skipped) == 1 and 'checkpoint-4' in skipped[0], file.name
        file.write_bytes(content)


def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_says_what_it_skips(cut, whole, tmp_path, capsys):
    shutil.copytree(cut, run := tmp_path / 'run')
    (run / 'checkpoints' / 'checkpoint-4' / 'optimizer.pt').write_bytes(b'')
    result = finetune(None, run, resume=True, progress=False)
    said = capsys.readouterr().err
    assert 'optimizer.pt has 0 of' in said and 'Going on from checkpoint-2' in said
    assert losses(result.history) == losses(whole.history) and same_weights(run, whole.run_dir)


@pytest.mark.slow
def test_resume_before_there_is_a_run_begins_it(folder, config, whole, tmp_path):
    result = finetune(folder, tmp_path / 'run', config, resume=True, progress=False)
    assert result.status == 'finished' and same_weights(result.run_dir, whole.run_dir)


@pytest.mark.slow
def test_a_finished_run_can_be_lengthened_and_its_card_tells(whole, config, tmp_path):
    shutil.copytree(whole.run_dir, run := tmp_path / 'run')
    result = finetune(None, run, replace(config, max_steps=8), resume=True, progress=False)
    assert result.status == 'finished' and [step for step, _ in losses(result.history)] == [3, 6] and json.loads((run / 'run.json').read_text())['updates'] == 8
    assert 'max_steps 8 (6 before)' in (run / 'adapter' / 'README.md').read_text() and TrainingConfig.load(run / 'config.yaml').max_steps == 8
    shutil.rmtree(run / 'checkpoints')
    with pytest.raises(VQAError, match='no whole checkpoint to go on from'): finetune(None, run, replace(config, max_steps=10), resume=True, progress=False)


def test_training_stops_at_the_first_number_that_is_none(folder, config, tmp_path):
    with pytest.raises(VQAError, match='not a number at update') as error:
        finetune(folder, tmp_path / 'run', replace(config, learning_rate=1e30, max_grad_norm=1e30), progress=False)
    assert 'Lower learning_rate (it is 1e+30)' in str(error.value) and error.value.exit_code == 1
    run = json.loads((tmp_path / 'run' / 'run.json').read_text())
    assert run['status'] == 'failed' and 'not a number' in run['error']
    if (tmp_path / 'run' / 'adapter').exists(): load_adapter(tmp_path / 'run')


def test_a_model_of_which_the_loss_is_no_number_is_asked_nothing(folder, config, tmp_path):
    "The remedy is a lower rate, and not what an answer without a number would suggest"
    asked = []
    def score(*_): return asked.append(1) or {}
    with pytest.raises(VQAError, match='validation loss is not a number at update') as error:
        finetune(folder, tmp_path / 'run', replace(config, eval_steps=1, learning_rate=1e30), progress=False, score=score)
    history = json.loads((tmp_path / 'run' / 'run.json').read_text())['history']
    assert len(asked) == sum('eval_loss' in row for row in history)
    assert 'Lower learning_rate (it is 1e+30).' in str(error.value) and 'precision' not in str(error.value)


def test_a_full_disk_while_saving_leaves_what_was_saved_before(folder, config, whole, tmp_path, monkeypatch):
    save = torch.save
    def full(value, file, *args, **kwargs):
        if 'checkpoint-4' in str(file): raise RuntimeError('[enforce fail at inline_container.cc:664] . unexpected pos 4928 vs 4822')
        return save(value, file, *args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', full)
        with pytest.raises(VQAError, match='no space left on the disk') as error: finetune(folder, tmp_path / 'run', config, progress=False)
    assert 'checkpoint-4' in str(error.value) and not (tmp_path / 'run' / 'checkpoints' / 'checkpoint-4').exists()
    result = finetune(None, tmp_path / 'run', resume=True, progress=False)
    assert result.status == 'finished' and losses(result.history) == losses(whole.history) and same_weights(result.run_dir, whole.run_dir)


def test_a_run_that_cannot_start_leaves_no_folder(folder, base, config, tmp_path):
    shutil.copytree(base, wrong := tmp_path / 'base')
    for path in wrong.glob('*processor_config.json'):
        path.write_text(path.read_text().replace('"image_seq_length": 4', '"image_seq_length": 9'))
    with pytest.raises(VQAError, match='keeps 9 places'): finetune(folder, tmp_path / 'run', replace(config, base=str(wrong)), progress=False)
    assert not (tmp_path / 'run').exists()
    with pytest.raises(VQAError, match="no metric 'nothing'"): finetune(folder, tmp_path / 'run', replace(config, best_metric='nothing'), progress=False)
    assert finetune(folder, tmp_path / 'run', replace(config, max_steps=1), progress=False).status == 'finished'   # nothing was kept, so the folder is free


def test_going_on_from_an_adapter_with_an_event_more(folder, config, whole, tmp_path):
    grown = replace(EventSchema(), events=('A', 'B', 'C', 'D', 'E', 'F'))
    data = make_folder(tmp_path / 'd', schema=grown, seed=1)
    result = finetune(data, tmp_path / 'run', replace(config, max_steps=2, lora_rank=2), progress=False, start_from=whole.run_dir)
    info = AdapterInfo.load(result.adapter_dir)
    assert TrainingConfig.load(result.run_dir / 'config.yaml').lora_rank == config.lora_rank   # the adapter's, not what was asked
    assert info.schema == grown and any('new events F' in sentence for sentence in info.told)
    assert 'new events F' in (result.adapter_dir / 'README.md').read_text()
    fresh = finetune(data, tmp_path / 'fresh', replace(config, max_steps=2), progress=False)
    assert next(h['eval_loss'] for h in result.history if 'eval_loss' in h) < next(h['eval_loss'] for h in fresh.history if 'eval_loss' in h)


def test_our_own_checkpoint_answers_as_an_adapter(folder, cut):
    predictor = Predictor.from_adapter(cut / 'checkpoints' / 'checkpoint-4')
    assert predictor.task.schema == EventSchema() and predictor.predict([folder / read_records(folder)[0].image], bound=None)[0].answer


@pytest.mark.slow
def test_rare_labels_drawn_more_often_and_the_same_after_going_on(folder, config, tmp_path):
    balanced = replace(config, balance=1.)
    result = finetune(folder, tmp_path / 'a', balanced, progress=False)
    with pytest.raises(KeyboardInterrupt): finetune(folder, tmp_path / 'b', balanced, progress=False, callbacks=[StopAfter(5)])
    assert losses(finetune(None, tmp_path / 'b', resume=True, progress=False).history) == losses(result.history)
    assert same_weights(tmp_path / 'a', tmp_path / 'b')
