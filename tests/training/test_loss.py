"""The loss over the answer's positions only, against the plain loss over all of them: value and every gradient."""
import pytest
import torch
from transformers import Trainer, TrainingArguments

from paligemma_vqa.training.fusing import compile_layers
from paligemma_vqa.training.collator import Collator
from paligemma_vqa.dataset.loading import load_dataset
from paligemma_vqa.model.adapter import AdapterConfig, add_adapter
from paligemma_vqa.model.base import load_base
from random_base import make_base
from small_dataset import make_folder

MODES = dict(lora=AdapterConfig(), dora=AdapterConfig(use_dora=True), rslora=AdapterConfig(use_rslora=True), qlora=AdapterConfig(mode='qlora'),
             projector=AdapterConfig(train_projector=True), vision=AdapterConfig(freeze_vision=False, vision_lora=True),
             full=AdapterConfig(mode='full', freeze_vision=False, train_projector=True), full_frozen=AdapterConfig(mode='full'))


@pytest.fixture(scope='module')
def base(tmp_path_factory): return make_base(tmp_path_factory.mktemp('base') / 'random')


@pytest.fixture(scope='module')
def data(tmp_path_factory): return load_dataset(make_folder(tmp_path_factory.mktemp('data') / 'd'), decode=False)['train']


def make_model(base, config, **options):
    model, processor = load_base(base, training=True, quantization='nf4' if config.mode == 'qlora' else None, dtype=torch.float32, **options)
    model = add_adapter(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_B' in name: parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)   # B = 0 has no gradient for A
    return model.train(), processor


def ragged(data): return [next(data[i] for i in range(len(data)) if data[i]['answer'].count('phase') == n) for n in (0, 2, 1)]


def pad_left(batch):
    "The same examples with their padding in front"
    moved = dict(batch)
    for row, padding in enumerate((batch['attention_mask'] == 0).sum(1).tolist()):
        for key in ('input_ids', 'attention_mask', 'token_type_ids', 'labels'):
            moved[key] = torch.stack([*moved[key][:row], moved[key][row].roll(padding), *moved[key][row + 1:]])
        moved['logits_to_keep'] = batch['logits_to_keep'] + (batch['attention_mask'] == 0).sum(1, keepdim=True) * (batch['shift_labels'] != -100)
    return moved


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def loop_loss(model, batch):
    "Minus the mean log-probability of each labelled token, one by one"
    logits = model(**{k: v for k, v in batch.items() if k not in ('labels', 'logits_to_keep', 'shift_labels')}).logits
    terms = [-torch.log_softmax(logits[row, position - 1], -1)[batch['labels'][row, position]]
             for row in range(len(logits)) for position in range(1, logits.shape[1]) if batch['labels'][row, position] != -100]
    return torch.stack(terms).mean()


@pytest.mark.parametrize('side', ['left', 'right'])
@pytest.mark.parametrize('mode', MODES)
def test_loss_and_every_gradient_equal_the_reference(base, data, mode, side):
    model, processor = make_model(base, MODES[mode])
    batch = Collator(processor, train=True)(ragged(data))
    if side == 'left': batch = pad_left(batch)
    assert (batch['attention_mask'][:, -1] == 1).all() == (side == 'left')
    lengths = (batch['shift_labels'] != -100).sum(1)
    assert len(set(lengths.tolist())) == 3 and batch['logits_to_keep'].shape[1] < batch['input_ids'].shape[1] / 2
    output = model(**batch)
    assert output.logits.shape[:2] == batch['shift_labels'].shape   # the head saw the answer's positions and no others
    found, expected = gradients(model, output.loss), gradients(model, loop_loss(model, batch))
    torch.testing.assert_close(output.loss, loop_loss(model, batch), atol=1e-5, rtol=1e-5)
    for name in expected:
        error, size = (found[name] - expected[name]).norm(), expected[name].norm()
        assert error <= 1e-4 * size + 1e-7, (name, error, size)
    assert sum(g.norm() > 0 for g in expected.values()) > 0.8 * len(expected)


@pytest.mark.parametrize('mode', ['lora', 'full'])
def test_gradient_checkpointing_changes_no_gradient(base, data, mode):
    model, processor = make_model(base, MODES[mode])
    batch = Collator(processor, train=True)(ragged(data))
    expected = gradients(model, model(**batch).loss)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
    found = gradients(model, model(**batch, use_cache=False).loss)
    for name in expected: torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_padding_changes_no_loss(base, data, side):
    model, processor = make_model(base, MODES['lora'])
    collator, examples = Collator(processor, train=True), ragged(data)
    together, counts, alone = collator(examples), [], []
    if side == 'left': together = pad_left(together)
    with torch.no_grad():
        for example in examples:
            one = collator([example])
            counts.append((one['shift_labels'] != -100).sum())
            alone.append(model(**one).loss * counts[-1])
        torch.testing.assert_close(model(**together).loss, sum(alone) / sum(counts), atol=1e-5, rtol=1e-5)


def losses(base, data, tmp_path, suffix_only, compiled=False, **options):
    "A few updates of the plain Trainer"
    model, processor = make_model(base, MODES['lora'])
    if compiled: assert compile_layers(model) > 2
    collator = Collator(processor, train=True)
    def plain(examples): return {k: v for k, v in collator(examples).items() if k not in ('logits_to_keep', 'shift_labels')}
    arguments = TrainingArguments(str(tmp_path / str(suffix_only)), use_cpu=True, max_steps=4, logging_steps=1, learning_rate=5e-3, report_to=[],
                                  remove_unused_columns=False, save_strategy='no', disable_tqdm=True, prediction_loss_only=True, **options)
    trainer = Trainer(model, arguments, data_collator=collator if suffix_only else plain, train_dataset=data, eval_dataset=data)
    trainer.train()
    return [h['loss'] for h in trainer.state.log_history if 'loss' in h] + [trainer.evaluate()['eval_loss']]


@pytest.mark.parametrize('batch_size, accumulation', [(3, 2), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((6, 1), (2, 3)))])
def test_same_run_under_the_trainer(base, data, tmp_path, batch_size, accumulation):
    options = dict(per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation)
    found, expected = losses(base, data, tmp_path, True, **options), losses(base, data, tmp_path, False, **options)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found == pytest.approx(losses(base, data, tmp_path, True, per_device_train_batch_size=6), rel=1e-3)   # accumulation is exact


@pytest.mark.slow
def test_same_run_with_compiled_layers(base, data, tmp_path):
    options = dict(per_device_train_batch_size=3)
    assert losses(base, data, tmp_path, True, compiled=True, **options) == pytest.approx(losses(base, data, tmp_path, True, **options), rel=1e-3)
