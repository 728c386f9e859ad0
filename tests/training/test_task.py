"What training knew, whoever asks the adapter uses: the schema, the question and the way of writing"
import json, shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from paligemma_vqa.dataset.loading import load_dataset
from paligemma_vqa.dataset.records import read_records, write_records
from paligemma_vqa.inference.predictor import Predictor
from paligemma_vqa.model.adapter import AdapterInfo
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.training.config import TrainingConfig
from paligemma_vqa.training.run import finetune
from paligemma_vqa.training.validation import score_answers
from dataclasses import replace
from random_base import make_base
from small_dataset import make_folder


@pytest.fixture(scope='module')
def base(tmp_path_factory): return make_base(tmp_path_factory.mktemp('base') / 'random')


@pytest.fixture
def config(base):
    torch.set_num_threads(1)
    return TrainingConfig(base=str(base), precision='fp32', learning_rate=2e-2, epochs=10, batch_size=4, accumulation_steps=1, lora_alpha=32.,
                          eval_steps=60, tensorboard=False)


@pytest.mark.parametrize('answer_format', ['list', pytest.param('json', marks=pytest.mark.slow)])
def test_an_adapter_answers_as_it_was_trained(config, tmp_path, answer_format):
    schema = EventSchema()
    folder = make_folder(tmp_path / 'd', answer_format=answer_format)
    result = finetune(folder, tmp_path / 'run', config, score=score_answers(schema), progress=False)
    assert AdapterInfo.load(result.adapter_dir).answer_format == answer_format
    data, predictor = load_dataset(folder)['validation'], Predictor.from_adapter(result.run_dir)
    answers = [prediction.answer for prediction in predictor.predict(list(data['image']), bound=None)]
    assert all(schema.render(schema.parse(answer), answer_format) == answer for answer in answers)
    right = sum(answer == row['answer'] for answer, row in zip(answers, data)) / len(data)
    assert result.metrics['exact_match'] == pytest.approx(right) and right > 0.8   # in the schema's first format: about none


def test_the_commonest_question_and_format_are_used_and_the_others_told(config, tmp_path):
    folder, schema = make_folder(tmp_path / 'd'), EventSchema()
    records = read_records(folder)
    odd = [replace(record, question='answer en What do you see?') if i == 0 else replace(record, answer=schema.render(schema.parse(record.answer), 'list')) if i > 4
           else record for i, record in enumerate(records)]
    write_records(folder, odd)
    with pytest.warns(UserWarning) as told: result = finetune(folder, tmp_path / 'run', replace(config, max_steps=1), progress=False)
    said = ' '.join(str(warning.message) for warning in told)
    assert "2 formats" in said and "'list' is the one" in said and '2 questions' in said
    info = AdapterInfo.load(result.adapter_dir)
    assert (info.question, info.answer_format) == (schema.question(), 'list')   # the first record's are neither
    kept = json.loads((result.run_dir / 'run.json').read_text())['task']
    assert kept['formats']['list'] > kept['formats']['sentence'] > 0
    assert sum(kept['formats'].values()) == sum(kept['questions'].values()) == 24
    card = (result.adapter_dir / 'README.md').read_text()
    assert 'written in 2 formats' in card and '2 questions are asked' in card


def test_a_run_does_not_go_on_above_another_base(base, config, tmp_path):
    "A checkpoint is only what was added: above other weights it is another model, and the adapter would not load"
    shutil.copytree(base, mine := tmp_path / 'base')
    folder, config = make_folder(tmp_path / 'd'), replace(config, base=str(mine), max_steps=1)
    finetune(folder, tmp_path / 'run', config, progress=False)
    weights = load_file(mine / 'model.safetensors')
    weights[next(name for name in sorted(weights) if 'down_proj' in name)] *= 1.5
    save_file(weights, mine / 'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(VQAError, match='not the one that the run began with'):
        finetune(folder, tmp_path / 'run', replace(config, max_steps=2), resume=True, progress=False)


def test_a_run_from_an_adapter_that_kept_nothing_begins_there_again(config, tmp_path):
    folder = make_folder(tmp_path / 'd')
    first = finetune(folder, tmp_path / 'first', replace(config, max_steps=1), progress=False)
    still = replace(config, max_steps=1, learning_rate=1e-12)
    second = finetune(folder, tmp_path / 'second', still, progress=False, start_from=first.adapter_dir)
    for kept in (second.adapter_dir, second.run_dir / 'checkpoints'): shutil.rmtree(kept)      # as if it had been killed at once
    facts = json.loads((second.run_dir / 'run.json').read_text())
    (second.run_dir / 'run.json').write_text(json.dumps(facts | dict(status='running')))
    again = finetune(folder, second.run_dir, resume=True, progress=False)
    old, new = (load_file(one.adapter_dir / 'adapter_model.safetensors') for one in (first, again))
    assert all(torch.allclose(old[name], new[name], atol=1e-6) for name in old) and any(new[name].any() for name in new if 'lora_B' in name)


def test_adapters_of_before_know_the_schema_s_first(tmp_path):
    info = AdapterInfo(schema=EventSchema(), base_model='tiny', base_fingerprint='0' * 12, image_size=28, soft_capping=True)
    values = info.to_dict()
    for name in ('question', 'answer_format'): del values[name]
    (tmp_path / 'paligemma_vqa.json').write_text(json.dumps(values))
    task = AdapterInfo.load(tmp_path).task
    assert (task.question, task.answer_format) == (EventSchema().question(), 'sentence')
