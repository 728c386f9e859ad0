"""The Predictor: whatever a picture comes as, the same answer; broken pictures, interruptions, adapters, formats."""
import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import matplotlib
matplotlib.use('Agg')
import numpy as np
import pytest
import torch
from decoding_models import constrained_generate
from PIL import Image
from random_base import make_base
from small_dataset import make_folder

from paligemma_vqa.training.collator import Collator
from paligemma_vqa.model.prompt import format_prompt
from paligemma_vqa.dataset.loading import load_dataset
from paligemma_vqa.inference.predictor import Failure, Predictor, picture_files
from paligemma_vqa.model.adapter import (AdapterConfig, AdapterInfo, add_adapter, describe_base, save_adapter)
from paligemma_vqa.model.merged import merge_adapter
from paligemma_vqa.model.base import load_base
from paligemma_vqa.schema import EventSchema, VQAError

SCHEMA = EventSchema(events=('A', 'B', 'C'), phases=('1', '2', '3'))


@pytest.fixture(scope='module')
def base(tmp_path_factory): return make_base(tmp_path_factory.mktemp('base'))


@pytest.fixture(scope='module')
def predictor(base): return Predictor.from_base(base, SCHEMA, device='cpu')


@pytest.fixture(scope='module')
def pictures():
    dice = np.random.default_rng(0)
    return [(dice.random((30 + 3 * i, 50, 3)) * 60 + 190 * dice.random(3)).clip(0, 255).astype(np.uint8) for i in range(9)]


@pytest.fixture
def folder(tmp_path, pictures):
    for i, pixels in enumerate(pictures): Image.fromarray(pixels).save(tmp_path / f'{i}.png')
    return tmp_path


def same(ones, others):
    assert [p.annotation for p in ones] == [p.annotation for p in others] and len(ones) == len(others)
    for one, other in zip(ones, others): np.testing.assert_allclose(one.probabilities, other.probabilities, atol=2e-3)


def test_every_kind_of_input_gives_the_same(predictor, pictures, folder):
    expected = [predictor.predict(p, budget=None)[0] for p in pictures]
    assert np.ptp([p.probabilities for p in expected], axis=0).max() > .02      # pictures that are mixed up would be noticed
    files = picture_files(folder)
    buffers = []
    for pixels in pictures:
        buffers.append(io.BytesIO())
        Image.fromarray(pixels).save(buffers[-1], 'PNG')
    for images in (pictures, tuple(pictures), iter(pictures), (p for p in pictures), [Image.fromarray(p) for p in pictures], files, list(map(str, files)),
                   folder, str(folder), [b.getvalue() for b in buffers]):
        same(predictor.predict(images, batch_size=4, budget=None), expected)
    same(predictor.predict(np.stack([pictures[0]] * 2), budget=None), [expected[0]] * 2)
    for batch_size in (1, 2, 9, 50): same(predictor.predict(pictures, batch_size=batch_size, budget=None), expected)
    same(list(predictor.stream(pictures, budget=None)), expected)
    assert predictor.predict([]) == []


def test_the_prompt_is_the_one_of_training(predictor, base, tmp_path):
    "Token for token what the collator makes, answer included, so that what was learnt is what is asked"
    data = make_folder(tmp_path / 'data', videos=3, frames=2, schema=SCHEMA)
    examples = [load_dataset(data)['train'][i] for i in range(2)]
    batch = Collator(predictor.processor, train=True)(examples)
    for row, example in enumerate(examples):
        kinds = batch['token_type_ids'][row].bool() | ~batch['attention_mask'][row].bool()
        assert batch['input_ids'][row][~kinds].tolist() == predictor._tokens(example['question'])[0].tolist()
        answer = batch['input_ids'][row][batch['token_type_ids'][row].bool() & batch['attention_mask'][row].bool()].tolist()
        assert tuple(answer) == predictor.automaton.tokens(SCHEMA.parse(example['answer']))


def test_equal_to_constrained_generate_on_the_processors_own_inputs(predictor, pictures):
    from paligemma_vqa.model.pixels import preprocess_images
    ids = predictor.processor(text=[format_prompt(predictor.question)] * 9, images=[Image.fromarray(p) for p in pictures], return_tensors='pt')
    inputs = dict(input_ids=ids['input_ids'], attention_mask=ids['attention_mask'], pixel_values=preprocess_images(pictures, 28))
    torch.testing.assert_close(inputs['pixel_values'], ids['pixel_values'], atol=.03, rtol=0)
    expected = constrained_generate(predictor.model, predictor.automaton, inputs)
    assert [predictor.automaton.tokens(p.annotation) for p in predictor.predict(pictures)] == expected


def test_a_broken_picture_is_an_error_or_a_report(predictor, folder):
    (folder / '4.png').write_bytes(b'not a picture')
    (folder / '7.png').write_bytes((folder / '7.png').read_bytes()[:300])
    (folder / 'note.txt').write_text('not a picture either, and not meant to be')
    with pytest.raises(VQAError, match='4.png'): predictor.predict(folder)
    results = list(predictor.predict_folder(folder, folder / 'out.jsonl', batch_size=3))
    assert [isinstance(r, Failure) for r in results] == [i in (4, 7) for i in range(9)]
    assert 'not a picture' in results[4].error
    lines = [json.loads(line) for line in open(folder / 'out.jsonl')]
    assert [line['image'] for line in lines] == [f'{i}.png' for i in range(9)]
    with pytest.raises(VQAError): predictor.predict(folder / 'none.png')
    (folder / 'empty').mkdir()
    with pytest.raises(VQAError, match='no picture in this folder'): predictor.predict(folder / 'empty')


@pytest.mark.parametrize('lost', [b'', b'{"image": "3.p'])
def test_an_interrupted_run_goes_on_where_it_stopped(predictor, folder, lost):
    out = folder / 'out.jsonl'
    run = predictor.predict_folder(folder, out, batch_size=2)
    for _ in range(3): next(run)
    run.close()
    with open(out, 'ab') as file: file.write(lost)         # a line that a crash tore
    done = out.read_bytes().count(b'\n')
    assert len(list(predictor.predict_folder(folder, out, batch_size=2))) == 9 - done
    assert sorted(json.loads(line)['image'] for line in open(out)) == [f'{i}.png' for i in range(9)]
    assert list(predictor.predict_folder(folder, out)) == []


def test_results_of_another_model_or_schema_are_asked_anew_and_the_old_ones_are_moved(predictor, base, folder):
    out = folder / 'out.jsonl'
    list(predictor.predict_folder(folder, out))
    other = Predictor.from_base(base, EventSchema(events=('A', 'B'), phases=('1',)), device='cpu')
    assert len(list(other.predict_folder(folder, out))) == 9
    assert {EventSchema(events=('A', 'B'), phases=('1',)).parse(json.loads(line)['answer']) is not None for line in open(out)} == {True}
    assert len(list(folder.glob('out.*.jsonl'))) == 1
    assert list(predictor.predict_folder(folder, out)) == []             # the first model's come back
    assert len(out.read_text().splitlines()) == 9 and len(list(folder.glob('out.*.jsonl'))) == 1
    out.write_text('hello\n')
    with pytest.raises(VQAError, match='not a line of results'): list(predictor.predict_folder(folder, out))


@pytest.mark.parametrize('what', ['weights', 'question', 'format', 'bound'])
def test_a_result_depends_on_everything_that_makes_it(base, folder, what):
    out = folder / 'out.jsonl'
    list(Predictor.from_base(base, SCHEMA, device='cpu').predict_folder(folder, out))
    again = Predictor.from_base(base, SCHEMA, device='cpu')
    settings = dict(bound=None) if what == 'bound' else {}
    if what == 'weights': again.model.model.language_model.layers[1].mlp.down_proj.weight.data[3, 4] += .01      # one of thousands
    if what in ('question', 'format'):
        again = Predictor(again.model, again.processor, SCHEMA, *dict(question=('answer en What?', None), format=(None, 'list'))[what])
    assert len(list(again.predict_folder(folder, out, **settings))) == 9
    assert list(again.predict_folder(folder, out, **settings)) == []


@pytest.mark.parametrize('broken', ['language_model.layers.0.mlp.up_proj.weight', 'vision_tower.encoder.layers.0.mlp.fc1.weight'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_scores_that_are_no_numbers_are_no_answer(base, pictures, broken, value):
    model = Predictor.from_base(base, SCHEMA, device='cpu')
    names = [name for name, _ in model.model.named_parameters()]
    [name] = [name for name in names if name.replace('.vision_model', '').endswith(broken)]
    model.model.get_parameter(name).data[0, 0] = value
    for call in (lambda: model.predict(pictures), lambda: model.predict(pictures, bound=None), lambda: list(model.stream(pictures)),
                 lambda: model.generate(pictures[0], 'caption en', 3)):
        with pytest.raises(VQAError, match='not numbers'): call()


def test_probabilities_stay_within_what_generate_would_cost(predictor, pictures):
    "By count of passes and tokens, which is the same each time; the answer is finished whatever is left"
    from paligemma_vqa.inference.posterior import posterior
    from paligemma_vqa.inference.trees import TreeSession
    exact, were_stopped = predictor.predict(pictures, bound=None), 0
    for rows in (1, 8):
        for pixels in predictor._prepare(pictures[:8]).split(rows):
            inputs = dict(input_ids=predictor._prefix.expand(len(pixels), -1), pixel_values=pixels)
            free, kept = (TreeSession(predictor.model, predictor.automaton, inputs) for _ in range(2))
            all_of_it, found = posterior(free, 1e-9), posterior(kept, 1e-9, budget=1)
            allowed = kept.costs.of_generate(max(len(one.greedy.tokens) for one in found))
            assert kept.costs.spent <= allowed
            were_stopped += free.costs.spent > allowed
            for one, other in zip(found, all_of_it):
                assert one.greedy.tokens == other.greedy.tokens
                assert (abs(one.probabilities - other.probabilities) <= one.unexplained + 1e-5).all()
    assert were_stopped
    for found, expected in zip(predictor.predict(pictures, budget=0, batch_size=3), exact): assert found.answer == expected.answer and found.unexplained > 0


@pytest.fixture(scope='module')
def adapter(base, tmp_path_factory):
    model, _ = load_base(base, device='cpu')
    adapted = add_adapter(model, AdapterConfig())
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if 'lora_B' in name: torch.nn.init.normal_(parameter, std=.3)
    info = AdapterInfo(schema=SCHEMA, answer_format='list', question='answer en What?', **describe_base(model, base))
    return save_adapter(adapted, tmp_path_factory.mktemp('run') / 'adapter', info)


def test_an_adapter_knows_its_base_schema_question_and_format(adapter, predictor, pictures):
    adapted = Predictor.from_adapter(adapter, device='cpu')
    assert adapted.schema == SCHEMA and adapted.question == 'answer en What?' and adapted.answer_format == 'list'
    assert not any('lora' in name for name, _ in adapted.model.named_parameters())       # merged
    found = adapted.predict(pictures)
    assert [SCHEMA.parse(p.answer, 'list') for p in found] == [p.annotation for p in found]
    assert any(not np.allclose(a.probabilities, b.probabilities, atol=.01) for a, b in zip(found, predictor.predict(pictures)))


def test_the_merged_model_answers_the_same_here_and_in_plain_transformers(adapter, pictures, tmp_path):
    from transformers import AutoProcessor, PaliGemmaForConditionalGeneration
    merged = merge_adapter(adapter, tmp_path / 'merged')
    expected = Predictor.from_adapter(adapter, device='cpu').predict(pictures)
    same(Predictor.from_adapter(merged, device='cpu').predict(pictures), expected)
    plain = Predictor(PaliGemmaForConditionalGeneration.from_pretrained(merged), AutoProcessor.from_pretrained(merged), SCHEMA, 'answer en What?', 'list')
    same(plain.predict(pictures), expected)


@pytest.mark.parametrize('dtype, difference', [('bfloat16', .15), ('float16', .02)])
def test_16_bits(base, predictor, pictures, dtype, difference):
    rough = Predictor.from_base(base, SCHEMA, device='cpu', dtype=dtype).predict(pictures)
    for one, exact in zip(rough, predictor.predict(pictures), strict=True):
        assert np.abs(one.probabilities - exact.probabilities).max() < difference


def test_an_unknown_quantization_is_named(base, adapter):
    for load in (lambda: Predictor.from_base(base, SCHEMA, device='cpu', quantization='int3'), lambda: Predictor.from_adapter(adapter, device='cpu', quantization='int3')):
        with pytest.raises(VQAError, match="unknown quantization 'int3'.* Use 'nf4'"): load()


def test_four_bits_on_a_cpu(adapter, pictures):
    bitsandbytes = pytest.importorskip('bitsandbytes')
    predictor = Predictor.from_adapter(adapter, device='cpu', quantization='nf4')
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in predictor.model.modules())
    found = predictor.predict(pictures)
    assert [SCHEMA.parse(p.answer, 'list') for p in found] == [p.annotation for p in found]
    for p in found: assert np.allclose(p.probabilities.sum(-1), 1) and np.isfinite(p.log_probability)


@pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')), reason='there is no C++ compiler')
@pytest.mark.slow
def test_compiled(adapter, pictures, folder, tmp_path):
    expected = Predictor.from_adapter(adapter, device='cpu').predict(pictures, budget=None)
    compiled = Predictor.from_adapter(adapter, device='cpu', compile=True)
    same(compiled.predict(pictures, batch_size=4, budget=None), expected)            # the last batch is not full
    same(list(compiled.predict_folder(folder, tmp_path / 'results.jsonl', batch_size=4, budget=None)), expected)
    same(compiled.predict(iter(pictures), batch_size=4, valid_mass=True, budget=None), expected)
    with ThreadPoolExecutor(3) as threads:                               # as when the labeling tool asks ahead
        for found in threads.map(lambda _: compiled.predict(pictures, batch_size=4, budget=None), range(3)): same(found, expected)
    assert list(compiled._fixed) == [4], 'one set of compiled passes per batch size'


@pytest.mark.slow
def test_what_cannot_be_compiled_says_so_each_time(base, pictures):
    predictor = Predictor.from_base(base, SCHEMA, device='cpu', compile=True)
    torch._dynamo.reset()
    with torch._inductor.config.patch({'cpp.cxx': (None, '/nonexistent/g++')}), torch._inductor.utils.fresh_cache():
        for _ in range(2):
            with pytest.raises(VQAError, match='cannot be compiled here'): predictor.predict(pictures[0])


@pytest.mark.gpu
@pytest.mark.parametrize('compile', [False, True])
@pytest.mark.parametrize('quantization', [None, 'nf4'])
def test_on_a_gpu(adapter, pictures, quantization, compile):
    expected = Predictor.from_adapter(adapter, device='cpu').predict(pictures)
    found = Predictor.from_adapter(adapter, device='cuda', quantization=quantization, compile=compile).predict(pictures)
    if quantization is None: same(found, expected)
    assert [SCHEMA.parse(p.answer, 'list') for p in found] == [p.annotation for p in found]
