import json, os, signal, subprocess, sys, textwrap
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from paligemma_vqa.training.config import TrainingConfig
from paligemma_vqa.training.collator import Collator
from paligemma_vqa.dataset.loading import load_dataset
from paligemma_vqa.cards import is_our_card
from paligemma_vqa.model.adapter import AdapterInfo, load_adapter
from paligemma_vqa.model.base import load_base
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.training.run import finetune
from paligemma_vqa.training.validation import score_answers
from random_base import make_base
from small_dataset import make_folder


@pytest.fixture(scope='module')
def base(tmp_path_factory): return make_base(tmp_path_factory.mktemp('base') / 'random')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp('data') / 'd')
    load_dataset(folder)   # writes the split once
    return folder


@pytest.fixture
def config(base):
    return TrainingConfig(base=str(base), precision='fp32', learning_rate=5e-3, epochs=3, batch_size=4, accumulation_steps=1, log_steps=1, lora_dropout=0.1,
                          lora_alpha=32., eval_batch_size=4)


torch.set_num_threads(1)   # as in the processes that are started below, so that sums are the same to the last bit


def curve(run_dir): return [h['loss'] for h in json.loads((run_dir / 'run.json').read_text())['history'] if 'loss' in h]


def test_run_folder_is_complete(folder, config, tmp_path):
    result = finetune(folder, tmp_path / 'run', config, progress=False)
    run = json.loads((result.run_dir / 'run.json').read_text())
    assert TrainingConfig.load(result.run_dir / 'config.yaml') == config
    assert EventSchema.load(result.run_dir / 'schema.json') == EventSchema()
    assert run['status'] == result.status == 'finished' and len(run['dataset_fingerprint']) == 12 and run['versions'].keys() >= {'torch', 'transformers', 'peft', 'python'}
    assert run['history'] == json.loads(json.dumps(result.history)) and run['examples'] == dict(train=24, validation=6)
    assert (result.run_dir / 'learning_curve.png').read_bytes()[:4] == b'\x89PNG' and list((result.run_dir / 'tensorboard').iterdir())
    info = AdapterInfo.load(result.adapter_dir)
    assert info.metrics == result.metrics and info.metrics.keys() == {'loss', 'exact'} and info.dataset_fingerprint == run['dataset_fingerprint']
    assert not list(result.run_dir.rglob('*.partial')) and not [p for p in result.adapter_dir.iterdir() if p.suffix not in ('.json', '.safetensors') and p.name != 'README.md']
    assert is_our_card((result.adapter_dir / 'README.md').read_text()) and info.dataset_fingerprint in (result.adapter_dir / 'README.md').read_text()
    assert curve(result.run_dir)[-1] < curve(result.run_dir)[0]


def test_kept_adapter_is_the_best_one(folder, config, tmp_path):
    result = finetune(folder, tmp_path / 'run', replace(config, best_metric='loss'), progress=False)
    evaluations = [h['eval_loss'] for h in result.history if 'eval_loss' in h]
    assert result.metrics['loss'] == min(evaluations)
    model, processor, _ = load_adapter(result.adapter_dir, merge=False)
    data = load_dataset(folder)['validation']
    batches = [Collator(processor, train=True)([data[i] for i in range(start, min(start + 4, len(data)))]) for start in range(0, len(data), 4)]
    with torch.no_grad(): total = sum(model(**b).loss * len(b['input_ids']) for b in batches) / len(data)
    assert total.item() == pytest.approx(min(evaluations), rel=0.05)   # the Trainer weighs its batches a little differently


@pytest.mark.slow
def test_exact_is_what_greedy_decoding_writes(folder, config, tmp_path):
    result = finetune(folder, tmp_path / 'run', replace(config, learning_rate=2e-2, epochs=12, best_metric='exact', lora_dropout=0.), progress=False)
    model, processor, _ = load_adapter(result.adapter_dir)
    data, right = load_dataset(folder)['validation'], 0
    for example in data:
        batch = Collator(processor, train=False)([{k: v for k, v in example.items() if k != 'answer'}])
        batch = {k: v for k, v in batch.items() if k in ('input_ids', 'attention_mask', 'token_type_ids', 'pixel_values')}
        with torch.no_grad(): out = model.generate(**batch, max_new_tokens=60, do_sample=False)
        right += processor.tokenizer.decode(out[0, batch['input_ids'].shape[1]:], skip_special_tokens=True) == example['answer']
    assert result.metrics['exact'] == pytest.approx(right / len(data)) and result.metrics['exact'] > 0.5


def test_score_sees_the_whole_validation_split_and_decides(folder, config, tmp_path):
    seen, values = [], iter([0.2, 0.9, 0.1])
    def score(model, processor, dataset):
        assert not model.training and not torch.is_grad_enabled()
        seen.append(len(dataset))
        return dict(events=next(values), examples=[('a', 'b')])
    result = finetune(folder, tmp_path / 'run', replace(config, best_metric='events'), score=score, progress=False)
    assert seen == [len(load_dataset(folder)['validation'])] * 3 and result.metrics['events'] == 0.9
    with pytest.raises(VQAError, match='Set best_metric to one of'): finetune(folder, tmp_path / 'other', replace(config, best_metric='nothing'), progress=False)


def test_early_stopping(folder, config, tmp_path):
    values = iter([0.5, 0.6, 0.5, 0.4, 0.7, 0.8])
    config = replace(config, epochs=6, early_stopping=2, best_metric='events')
    result = finetune(folder, tmp_path / 'run', config, score=lambda *_: dict(events=next(values)), progress=False)
    assert result.status == 'stopped early' and result.metrics['events'] == 0.6 and sum('eval_loss' in h for h in result.history) == 4


@pytest.mark.slow
def test_no_early_stop_while_all_answers_are_wrong_but_the_loss_falls(folder, config, tmp_path):
    config = replace(config, epochs=5, early_stopping=2, best_metric='events', learning_rate=1e-3, lora_dropout=0.)
    result = finetune(folder, tmp_path / 'run', config, score=lambda *_: dict(events=0.), progress=False)
    assert result.status == 'finished' and result.metrics['loss'] == min(h['eval_loss'] for h in result.history if 'eval_loss' in h)


@pytest.mark.slow
def test_cached_features_train_the_same(folder, config, tmp_path):
    config = replace(config, lora_dropout=0., max_steps=6)
    plain = finetune(folder, tmp_path / 'plain', config, progress=False)
    cached = finetune(folder, tmp_path / 'cached', replace(config, cache_vision=True), progress=False)
    assert curve(cached.run_dir) == pytest.approx(curve(plain.run_dir), rel=1e-4) and not (cached.run_dir / 'features').exists()


@pytest.mark.parametrize('mode, options', [('lora', {}), ('qlora', {}), *(pytest.param(mode, options, marks=pytest.mark.slow) for mode, options in (
    ('full', {}), ('lora', dict(train_projector=True)), ('lora', dict(gradient_checkpointing=True))))])
def test_only_what_should_train_has_changed(folder, base, config, tmp_path, mode, options):
    result = finetune(folder, tmp_path / 'run', replace(config, mode=mode, max_steps=2, **options), progress=False)
    model, before = load_adapter(result.adapter_dir, quantization='none')[0], load_base(base)[0]
    changed = {name for (name, now), (_, then) in zip(model.named_parameters(), before.named_parameters(), strict=True) if not torch.equal(now.float(), then.float())}
    assert changed and not [name for name in changed if 'vision_tower' in name]
    assert any('multi_modal_projector' in name for name in changed) == options.get('train_projector', False)
    if mode != 'full': assert {name for name in changed if 'projector' not in name} == {n for n, _ in before.named_parameters() if 'language_model' in n and '_proj' in n}


def test_answers_are_decoded_in_a_run_in_bf16(folder, config, tmp_path):
    result = finetune(folder, tmp_path / 'run', replace(config, precision='bf16', max_steps=1, train_projector=True), score=score_answers(EventSchema()), progress=False)
    assert result.status == 'finished' and 0 <= result.metrics['event_f1'] <= 1


def test_bf16(folder, config, tmp_path):
    result = finetune(folder, tmp_path / 'run', replace(config, precision='bf16', max_steps=3, train_projector=True), progress=False)
    assert all(t.dtype == torch.float32 for t in load_file(result.adapter_dir / 'adapter_model.safetensors').values())   # the base is bf16, what trains is not
    assert curve(result.run_dir)[-1] < curve(result.run_dir)[0]


SCRIPT = textwrap.dedent('''
    import os, signal, sys, time
    from transformers import TrainerCallback
    from paligemma_vqa.training.config import TrainingConfig
    from paligemma_vqa.training.run import finetune

    class Act(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if what == 'kill' and state.global_step == step: os.kill(os.getpid(), signal.SIGKILL)
            if what == 'slow': print('step', state.global_step, flush=True); time.sleep(0.2)

    data, run, config, what, step = *sys.argv[1:5], int(sys.argv[5])
    result = finetune(data, run, TrainingConfig.load(config), resume=what == 'resume', callbacks=[Act()])
    print(result.status)
''')


@pytest.fixture
def script(tmp_path, config, folder):
    (tmp_path / 'script.py').write_text(SCRIPT)
    def start(run, what='', step=0, config=config, launcher=(sys.executable,)):
        config.save(tmp_path / f'{run}.yaml')
        env = os.environ | dict(PYTHONPATH=os.pathsep.join(p for p in sys.path if p), OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1')
        return subprocess.Popen([*launcher, tmp_path / 'script.py', folder, tmp_path / run, tmp_path / f'{run}.yaml', what or 'run', str(step)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    return start


def finish(process):
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


@pytest.mark.slow
@pytest.mark.parametrize('eval_steps', [2, None], ids=['steps', 'epochs'])
def test_resume_after_kill_equals_an_uninterrupted_run(script, folder, config, tmp_path, eval_steps):
    config = replace(config, eval_steps=eval_steps, accumulation_steps=2, batch_size=2, augment=True)
    finetune(folder, tmp_path / 'whole', config, progress=False)
    steps = len(curve(tmp_path / 'whole'))
    assert finish(script('killed', 'kill', 2 * steps // 3 - 1, config=config))[0] == -signal.SIGKILL
    # a checkpoint that the kill cut short must not be taken
    torn = tmp_path / 'killed' / 'checkpoints' / 'checkpoint-9999'
    torn.mkdir()
    (torn / 'trainer_state.json').write_text('{"epoch": 2.')
    code, out, error = finish(script('killed', 'resume', config=config))
    assert (code, out.strip()) == (0, 'finished'), error
    assert curve(tmp_path / 'killed') == curve(tmp_path / 'whole') and len(curve(tmp_path / 'whole')) == steps
    for name in ('adapter_model.safetensors',):
        a, b = (load_file(tmp_path / run / 'adapter' / name) for run in ('whole', 'killed'))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_ctrl_c_saves_and_can_be_resumed(script, folder, config, tmp_path):
    finetune(folder, tmp_path / 'whole', config, progress=False)
    process = script('stopped', 'slow')
    while 'step 4' not in process.stdout.readline(): assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, out, error = finish(process)
    assert code == 0 and out.strip().endswith('interrupted') and 'SIGINT: saving after this update' in error
    run = json.loads((tmp_path / 'stopped' / 'run.json').read_text())
    assert run['status'] == 'interrupted' and 4 <= run['updates'] < len(curve(tmp_path / 'whole'))
    assert AdapterInfo.load(tmp_path / 'stopped' / 'adapter')
    code, out, error = finish(script('stopped', 'resume'))
    assert code == 0 and out == 'finished\n' and 'epoch 3:' in error and 'exact' in error and 'Traceback' not in error   # progress is on stderr
    assert curve(tmp_path / 'stopped') == curve(tmp_path / 'whole')


@pytest.mark.slow
@pytest.mark.parametrize('mode, launcher', [
    ('lora', ('-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0', '--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0')),
    # as documented, and with a precision that somebody once configured for something else
    ('full', ('-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes=2', '--num_machines=1', '--main_process_port=0', '--mixed_precision=bf16', '--dynamo_backend=no'))],
    ids=['torchrun', 'accelerate launch'])
def test_two_processes_train_like_one(script, folder, config, tmp_path, mode, launcher):
    config = replace(config, lora_dropout=0., mode=mode)   # dropout draws differ between processes
    finetune(folder, tmp_path / 'one', config, progress=False)
    launcher = (sys.executable, *launcher)
    two = finish(script('two', config=replace(config, batch_size=2), launcher=launcher))
    assert two[0] == 0, two[2]
    assert curve(tmp_path / 'two') == pytest.approx(curve(tmp_path / 'one'), rel=2e-3)
    a, b = (AdapterInfo.load(tmp_path / run / 'adapter').metrics for run in ('one', 'two'))
    assert a['exact'] == b['exact'] and a['loss'] == pytest.approx(b['loss'], rel=0.05)


def test_save_total_limit(folder, config, tmp_path):
    finetune(folder, tmp_path / 'run', replace(config, epochs=4, save_total_limit=2), progress=False)
    assert len(list((tmp_path / 'run' / 'checkpoints').iterdir())) == 2
