"""Checkpoints that another program saved answer as they were trained to, and are refused where they cannot."""
import json, shutil
from pathlib import Path

import pytest

import classic_script
from paligemma_vqa.dataset.records import read_records
from paligemma_vqa.model.base import base_folder
from paligemma_vqa.schema import EventSchema
from small_dataset import make_folder
from terminal import fails, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path: return make_folder(tmp_path_factory.mktemp('data') / 'd', videos=3, frames=4, size=224)


@pytest.fixture(scope='module')
def checkpoints(data, tmp_path_factory) -> dict[str, Path]:
    "Records have `answer en`; one script adds it again, one does not"
    folder, base = tmp_path_factory.mktemp('output'), str(base_folder('tiny'))
    return {name: classic_script.train(base, data, folder / name, before) for name, before in (('once', ''), ('twice', 'answer en '))}


@pytest.fixture
def checkpoint(checkpoints, tmp_path):
    "A fresh copy: what is found out is kept beside the weights"
    def copy(name): return shutil.copytree(checkpoints[name], tmp_path / name / checkpoints[name].name)
    return copy


def answers(done) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return {Path(value['image']).name: value['answer'] for value in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize('name', ['once', 'twice'])
def test_the_command_as_typed(checkpoint, data, name):
    folder = checkpoint(name)
    assert not (folder / 'paligemma_vqa.json').exists() and any('vision_tower' in key for key in _keys(folder))
    done = run('infer', '--image_path', data / 'images', '--lora_path', folder, '--json')
    assert answers(done) == {Path(record.image).name: record.answer for record in read_records(data)}
    assert f"It is asked with 'answer en' {name}, and answers as 'sentence'" in done.stderr and 'A, B, C, D, E' in done.stderr
    # remembered, and so known to every other command
    assert json.loads((folder / 'paligemma_vqa.json').read_text())['prompt_prefix'] == 'answer en ' * (1 + (name == 'twice'))
    again = run('infer', '--image-path', data / 'images', '--lora-path', folder, '--json')
    assert answers(again) == answers(done) and 'another program' not in again.stderr


def _keys(folder):
    from safetensors import safe_open
    with safe_open(folder / 'adapter_model.safetensors', 'pt') as file: return list(file.keys())


def test_question_and_form_of_a_data_set(data, tmp_path):
    "A question of somebody's own, and answers as a list"
    own = shutil.copytree(data, tmp_path / 'own')
    schema, rows = EventSchema(), [json.loads(line) for line in (own / 'labels.jsonl').read_text().splitlines()]
    rows = [row | dict(question='What is going on?', answer=schema.render(schema.parse(row['answer']), 'list')) for row in rows]
    (own / 'labels.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    folder = classic_script.train(str(base_folder('tiny')), own, tmp_path / 'output')
    done = run('infer', '--image_path', own / 'images', '--lora_path', folder, '--data', own, '--json')
    assert "answers as 'list'" in done.stderr
    assert answers(done) == {Path(row['image']).name: row['answer'] for row in rows}


def test_whole_checkpoint_without_a_processor(data, tmp_path):
    folder = classic_script.train(str(base_folder('tiny')), data, tmp_path / 'output', is_lora=False)
    for name in ('processor_config.json', 'preprocessor_config.json', 'tokenizer.json', 'tokenizer_config.json'): (folder / name).unlink(missing_ok=True)
    fails('infer', '--image_path', data / 'images', '--lora_path', folder, says=['no processor', '--model'])
    done = run('infer', '--image_path', data / 'images', '--lora_path', folder, '--model', 'tiny', '--json')
    assert answers(done) == {Path(record.image).name: record.answer for record in read_records(data)}


def test_what_cannot_be_known_is_asked_for(checkpoint, data, tmp_path):
    folder, pictures = checkpoint('once'), data / 'images'
    EventSchema(events=('smoke', 'blood'), phases=('early', 'late')).save(tmp_path / 'other.json')
    fails('infer', '--image_path', pictures, '--lora_path', folder, '--schema', tmp_path / 'other.json', says=['smoke, blood', '--data DIR'])
    assert not (folder / 'paligemma_vqa.json').exists()
    fails('infer', '--image_path', pictures, '--lora_path', folder.parent, says=['There are checkpoints in it', folder.name])
    fails('merge', '--lora_path', folder, '--output', tmp_path / 'm', says=['another program', 'paligemma-vqa infer'])
    config = json.loads((folder / 'adapter_config.json').read_text())
    (folder / 'adapter_config.json').write_text(json.dumps(config | dict(base_model_name_or_path='/home/somebody/paligemma')))
    fails('infer', '--image_path', pictures, '--lora_path', folder, says=['/home/somebody/paligemma', '--model NAME or FOLDER'])
    done = run('infer', '--image_path', pictures, '--lora_path', folder, '--model', 'tiny', '--schema', data / 'schema.json', '--json')
    assert answers(done) == {Path(record.image).name: record.answer for record in read_records(data)}
    # after that it can be merged, and asked as it was trained
    assert run('merge', '--lora_path', folder, '--output', tmp_path / 'm').returncode == 0
    assert answers(run('infer', '--image_path', pictures, '--lora_path', tmp_path / 'm', '--json')) == answers(done)


def test_our_own_checkpoints(trained):
    [checkpoint, *_] = sorted((trained / 'run/checkpoints').glob('checkpoint-*'))
    picture = next((trained / 'data/images').iterdir())
    done = run('infer', '--image_path', picture, '--lora_path', checkpoint, '--json')
    assert done.returncode == 0 and 'another program' not in done.stderr, done.stderr
    fails('infer', '--image_path', picture, '--lora_path', checkpoint, '--data', trained / 'data', says=['knows its schema', 'Leave out --data'])
