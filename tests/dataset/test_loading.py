"""The way from a folder to a loss: the same tokens and pixels as transformers', in every worker, with and without the cache."""
import copy, pickle
from collections import Counter
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import ExifTags, Image
from torch.utils.data import DataLoader, WeightedRandomSampler
from torch.utils.data._utils.pin_memory import pin_memory
from transformers import Trainer, TrainingArguments

from random_base import make_base

from paligemma_vqa.training.collator import Collator, encode, plain_error
from paligemma_vqa.model.prompt import format_prompt
from paligemma_vqa.dataset.loading import load_dataset
from paligemma_vqa.dataset.balance import sampling_weights
from paligemma_vqa.training.features import FeatureCache, ImageFeatures, picture_key
from paligemma_vqa.training.augment import Augmentation
from paligemma_vqa.media.images import open_image
from paligemma_vqa.model.pixels import preprocess_images, resize_image
from paligemma_vqa.dataset.records import Record, write_records
from paligemma_vqa.model.adapter import AdapterConfig, add_adapter
from paligemma_vqa.model.base import load_base
from paligemma_vqa.schema import EventSchema, VQAError

SCHEMA = EventSchema(safe_flips=('horizontal',))


@pytest.fixture(scope='module')
def base(tmp_path_factory): return make_base(tmp_path_factory.mktemp('base'), image_size=56)


@pytest.fixture(scope='module')
def processor(base): return load_base(base, device='cpu')[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Six videos of noisy pictures in several sizes and kinds"
    folder, random, records = tmp_path_factory.mktemp('data'), np.random.default_rng(0), []
    (folder/'images').mkdir()
    for video in range(6):
        for frame in range(6):
            size = (int(random.integers(40, 200)), int(random.integers(40, 200)))
            picture = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(('RGB', 'L', 'CMYK', 'P', 'RGBA', 'RGB')[frame])
            kind = ('png', 'png', 'jpg', 'gif', 'png', 'webp')[frame]
            name = f'images/video{video}_{frame:06d}.{kind}'
            picture.save(folder/name)
            records.append(Record(name, SCHEMA.question(), SCHEMA.render({'A': '1', 'C': '2'} if frame % 3 else {}), dict(time_s=frame * .5)))
    write_records(folder, records)
    SCHEMA.save(folder/'schema.json')
    return folder


@pytest.fixture(scope='module')
def rows(folder): return load_dataset(folder, decode=False)['train']


# --- tokens

questions = st.one_of(st.just(SCHEMA.question()), st.text(min_size=1).filter(lambda q: q.split()))


@settings(max_examples=100, deadline=None)
@given(questions, st.sampled_from([SCHEMA.render(a) for a in ({}, {'A': '1'}, {'B': '4', 'E': '2'})]))
def test_training_and_inference_read_the_same_prefix(processor, question, answer):
    try: prompt = format_prompt(question)
    except VQAError: return
    ids, prefix = encode(processor, question, answer)
    assert ids[:prefix] == encode(processor, question)[0] == encode(processor, prompt)[0]
    assert ids[prefix:] == processor.tokenizer(answer)['input_ids'] + [processor.tokenizer.eos_token_id]
    # What transformers itself makes of the prompt at inference
    asked = processor(images=Image.new('RGB', (8, 8)), text=prompt, return_tensors='pt')
    assert asked['input_ids'][0].tolist() == ids[:prefix]


def test_batch_is_the_processors(processor, rows):
    examples = [rows[i] for i in (0, 1, 2, 7)]
    batch = Collator(processor)(examples)
    theirs = processor(images=[open_image(e['image']) for e in examples], text=[format_prompt(e['question']) for e in examples],
                       suffix=[e['answer'] for e in examples], padding='longest', return_tensors='pt')
    for name in ('input_ids', 'attention_mask', 'token_type_ids', 'labels'): assert torch.equal(batch[name], theirs[name]), name
    assert (batch['pixel_values'] - theirs['pixel_values']).abs().max() * 127.5 < 2.001
    assert {name: values.dtype for name, values in batch.items()} == {name: torch.float32 if name == 'pixel_values' else torch.int64 for name in batch}


def test_loss_on_the_answer_is_the_full_loss(base, processor, rows):
    model, _ = load_base(base, device='cpu')
    batch = Collator(processor)([rows[i] for i in (0, 1, 7)])
    plain = {name: batch[name] for name in ('input_ids', 'attention_mask', 'token_type_ids', 'labels', 'pixel_values')}
    with torch.no_grad(): assert torch.allclose(model(**batch).loss, model(**plain).loss, atol=1e-6)
    # The mistake to test against: a prefix without its type ids is causal, and the loss is another.
    with torch.no_grad(): assert abs(model(**{**plain, 'token_type_ids': torch.ones_like(plain['token_type_ids'])}).loss - model(**plain).loss) > 1e-3


def test_padding_changes_nothing(base, processor, rows):
    model, _ = load_base(base, device='cpu')
    collate, examples = Collator(processor), [rows[i] for i in (0, 1)]   # answers of different lengths
    both = collate(examples)
    assert (both['shift_labels'] == -100).any()
    with torch.no_grad():
        together = model(**both).logits
        for i, one in enumerate(examples):
            alone = collate([one])
            length = (alone['shift_labels'][0] != -100).sum()
            assert torch.allclose(model(**alone).logits[0, :length], together[i, :length], atol=1e-4)
    # Prefixes alone are padded on the left, so that the next token is the last position for all.
    asked = Collator(processor, train=False)([dict(image=rows[0]['image'], question=q) for q in ('short', SCHEMA.question())])
    assert asked['attention_mask'][0, 0] == 0 and asked['attention_mask'][:, -1].tolist() == [1, 1] and 'labels' not in asked


def test_evaluation_is_not_augmented(processor, rows):
    augment = Augmentation.for_schema(SCHEMA, strength=2, color=1)
    plain, evaluated = (Collator(processor, train=t, augment=a)([rows[0]]) for t, a in ((True, None), (False, augment)))
    assert torch.equal(plain['pixel_values'], evaluated['pixel_values']) and torch.equal(plain['labels'], evaluated['labels'])


def batches(rows, collate, workers, seed=0, **options):
    torch.manual_seed(seed)
    return list(DataLoader(rows, batch_size=4, collate_fn=collate, num_workers=workers, **options))


def test_workers_make_the_same_batches(processor, rows):
    collate = Collator(processor)
    for one, two in zip(batches(rows, collate, 0), batches(rows, collate, 2), strict=True):
        for name in one: assert torch.equal(one[name], two[name])
    # Nothing in it hinders processes that are started anew, as on Windows.
    [first, *_] = batches(rows, pickle.loads(pickle.dumps(collate)), 0)
    assert torch.equal(first['pixel_values'], batches(rows, collate, 0)[0]['pixel_values'])


def test_workers_have_luck_of_their_own(processor, rows):
    collate, same = Collator(processor, augment=Augmentation(color=1), seed=3), [rows[0]] * 16
    def pictures(seed, collate=collate): return torch.cat([b['pixel_values'] for b in batches(same, collate, 2, seed)])
    first = pictures(0)
    assert len(first.flatten(1).unique(dim=0)) == 16
    assert torch.equal(first, pictures(0)) and not torch.equal(first, pictures(1))
    assert not torch.equal(first, pictures(0, Collator(processor, augment=Augmentation(color=1), seed=4)))


def test_error_in_a_worker_is_one_line(processor, rows, folder):
    bad = dict(rows[0], image=dict(path=str(folder/'images/gone.png'), bytes=None))
    with pytest.raises(VQAError) as caught: batches([rows[0], bad], Collator(processor), 1)
    assert str(plain_error(caught.value)) == f'{folder}/images/gone.png: there is no such picture. Put it there or delete its record.'
    other = ValueError('x')
    assert plain_error(other) is other


# --- pictures

def real_pictures(bikes):
    import av
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_images
    yield from load_sample_images().images
    yield np.array(Image.open(get_sample_data('grace_hopper.jpg', asfileobj=False)).convert('RGB'))
    with av.open(str(bikes)) as video:
        for i, frame in enumerate(video.decode(video=0)):
            if i % 80 == 0: yield frame.to_ndarray(format='rgb24')


@pytest.mark.parametrize('size', (56, 224, 448))
def test_pixels_are_the_processors(processor, bikes, size):
    images = copy.deepcopy(processor.image_processor)
    images.size = dict(height=size, width=size)
    for picture in real_pictures(bikes):
        for turned in (picture, np.rot90(picture)):
            theirs = images(images=turned, return_tensors='pt')['pixel_values']
            levels = (preprocess_images([turned], size) - theirs).abs() * 127.5
            # One level; two for some of a hundred thousand values, where torch rounds its 16-bit weights the other way.
            assert levels.max() < 2.001 and (levels > 1.001).double().mean() < 1e-4
            assert (levels > 0.5).double().mean() < 0.02


def test_order_of_the_passes_is_pillows():
    random = np.random.default_rng(0)
    for size, width in ((28, 40), (56, 57), (56, 100), (112, 90), (224, 300)):
        for height in {size - 1, size + 1, 2 * width - size - 1, 2 * width - size + 1, 3 * width}:
            picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)   # noise tells the orders apart
            pillow = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
            assert abs(resize_image(picture, size).permute(1, 2, 0).numpy() - pillow).max() <= 2, (size, width, height)


def test_pictures_are_not_changed_or_shared(bikes):
    picture = next(real_pictures(bikes)).copy()
    before, pixels = picture.copy(), preprocess_images([picture, picture], 56)
    Augmentation(color=1, glints=1, flip=1, flips=('horizontal', 'vertical'))(picture[:56, :56], np.random.default_rng(0))
    opened = open_image(picture)
    opened[:] = 0
    assert (picture == before).all() and torch.equal(pixels[0], pixels[1])
    assert torch.equal(preprocess_images([picture[::-1, ::-1]], 56), preprocess_images([picture[::-1, ::-1].copy()], 56))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :30] = 255
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]   # Image.Transpose that undoes it
    stored = Image.fromarray(upright) if back is None else Image.fromarray(upright).transpose(back)
    stored.save(tmp_path/'a.png', exif=exif)
    assert (open_image(tmp_path/'a.png') == upright).all() and (open_image((tmp_path/'a.png').read_bytes()) == upright).all()
    assert (open_image(Image.open(tmp_path/'a.png')) == upright).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.sampled_from(('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'LAB', 'I;16')), st.integers(0, 99))
def test_every_kind_becomes_rgb(height, width, mode, seed):
    random = np.random.default_rng(seed)
    gray = random.integers(0, 65536, (height, width)).astype(np.uint16)
    picture = Image.fromarray(gray) if mode == 'I;16' else Image.fromarray((gray // 257).astype(np.uint8)).convert('RGB').convert(mode)
    opened = open_image(picture)
    assert opened.shape == (height, width, 3) and opened.dtype == np.uint8 and opened.flags.writeable
    assert preprocess_images([opened], 28).shape == (1, 3, 28, 28)


# --- tables

def test_parquet_with_pictures_inside(folder, tmp_path):
    data = load_dataset(folder)
    embed = partial(datasets.Dataset.map, function=datasets.table.embed_table_storage, batched=True)
    for side, rows in data.items(): embed(rows.with_format('arrow')).with_format(None).to_parquet(tmp_path/f'{side}-00000.parquet')
    loaded = load_dataset(tmp_path, decode=False)
    assert loaded['test'][0]['image']['bytes'] == Path(load_dataset(folder, decode=False)['test'][0]['image']['path']).read_bytes()
    datasets.concatenate_datasets([data['train'], data['validation']]).to_parquet(tmp_path/'validation-00000.parquet')
    with pytest.warns(UserWarning, match='are on two sides'): load_dataset(tmp_path)
    bad = tmp_path/'bad'
    bad.mkdir()
    data['train'].remove_columns('answer').to_parquet(bad/'a.parquet')
    with pytest.raises(VQAError, match='the key "answer" is missing'): load_dataset(bad)


def test_weights_even_out(folder):
    rows = [dict(answer=SCHEMA.render({'A': '1'} if i % 50 else {'B': '2'}), video=f'v{i // 100}') for i in range(1000)]
    weights = sampling_weights(rows, SCHEMA)
    drawn = Counter(rows[i]['answer'] for i in WeightedRandomSampler(weights, 20_000, generator=torch.Generator().manual_seed(0)))
    assert abs(drawn[rows[0]['answer']] / 20_000 - 0.5) < 0.02
    long = [dict(answer=SCHEMA.render({}), video='long')] * 90 + [dict(answer=SCHEMA.render({}), video='short')] * 10
    assert abs(sampling_weights(long, SCHEMA)[:90].sum() - 0.5) < 1e-9 and abs(sampling_weights(long, SCHEMA, 0.5)[:90].sum() - 0.7) < 1e-9


# --- image features

def adapted(base, dtype=torch.float32):
    return add_adapter(load_base(base, device='cpu', dtype=dtype, training=True)[0], AdapterConfig(lora_rank=4), seed=0)


def losses(model, collate, rows, folder, **options):
    torch.manual_seed(0)
    arguments = TrainingArguments(str(folder), max_steps=6, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1, report_to=[], use_cpu=True, seed=0,
                                  data_seed=0, remove_unused_columns=False, disable_tqdm=True, save_strategy='no', **options)
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=rows)
    trainer.train()
    return [entry['loss'] for entry in trainer.state.log_history if 'loss' in entry], model


@pytest.mark.parametrize('precision', ('float32', pytest.param('autocast', marks=pytest.mark.slow)))
def test_losses_are_equal_with_cached_features(base, processor, rows, tmp_path, precision):
    options = dict(bf16=True) if precision == 'autocast' else {}
    model = adapted(base)
    cache = FeatureCache(tmp_path/'features', model, processor, autocast=torch.bfloat16 if options else None)
    assert cache.add(rows['image'], model, processor, batch_size=4, file_size=10) == len(rows)
    with_pixels, one = losses(adapted(base), Collator(processor), rows, tmp_path/'a', **options)
    with_features, two = losses(model, Collator(processor, features=cache), rows, tmp_path/'b', **options)
    assert with_features == with_pixels and len(set(with_pixels)) > 3
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_cache_is_by_bytes_model_and_processor(base, processor, rows, tmp_path):
    model = adapted(base)
    cache = FeatureCache(tmp_path, model, processor)
    cache.add(rows['image'], model, processor)
    path = Path(rows[0]['image']['path'])
    assert picture_key(path) == picture_key(path.read_bytes()) == picture_key(rows[0]['image'])
    assert rows[0]['image'] in cache and path.read_bytes() in cache and path.read_bytes() + b' ' not in cache
    assert cache.add(rows['image'], model, processor) == 0 and len(FeatureCache(tmp_path, model, processor)) == len(cache)
    other = add_adapter(load_base(make_base(tmp_path/'other', seed=1, image_size=56), device='cpu')[0], AdapterConfig())
    assert len(FeatureCache(tmp_path, other, processor)) == 0
    for config in (AdapterConfig(train_projector=True), AdapterConfig(freeze_vision=False, vision_lora=True)):
        with pytest.raises(VQAError, match='train, such as'): FeatureCache(tmp_path, add_adapter(load_base(base, device='cpu')[0], config), processor)
    with pytest.raises(VQAError, match='has no cached features'): Collator(processor, features=cache)([dict(rows[0], image=np.zeros((9, 9, 3), np.uint8))])


def test_cache_goes_on_after_a_crash(base, processor, rows, tmp_path):
    model, pictures = adapted(base), rows['image'][:20]
    cache = FeatureCache(tmp_path, model, processor)
    def crash():
        yield from pictures[:13]
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): cache.add(crash(), model, processor, file_size=5)
    (cache.folder/'00002.partial').write_bytes(b'half')     # what a kill leaves
    np.save(cache.folder/'00002.npy', np.zeros(3))
    again = FeatureCache(tmp_path, model, processor)
    assert len(again) == 10 and again.add(pictures, model, processor, file_size=5) == 10
    with torch.no_grad(): direct = model.get_image_features(preprocess_images([open_image(p) for p in pictures], 56)).pooler_output
    assert torch.allclose(again.batch(pictures).pooler_output, direct, atol=1e-5)


def test_cached_batches_move(base, processor, rows, tmp_path, monkeypatch):
    "Through workers, pinned memory, and the Trainer's way to the device, which rebuild what they carry"
    model = adapted(base)
    cache = FeatureCache(tmp_path, model, processor)
    cache.add(rows['image'], model, processor)
    collate = Collator(processor, features=cache)
    for one, two in zip(batches(rows, collate, 0), batches(rows, pickle.loads(pickle.dumps(collate)), 2), strict=True):
        assert 'pixel_values' not in one and torch.equal(one['mm_encoder_outputs']['image'].pooler_output, two['mm_encoder_outputs']['image'].pooler_output)
    monkeypatch.setattr(torch.Tensor, 'pin_memory', torch.Tensor.clone)   # there is no GPU to pin for
    pinned = pin_memory(one)['mm_encoder_outputs']['image']
    moved = Trainer._prepare_input(Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])), one)['mm_encoder_outputs']['image']
    for image in (pinned, moved): assert isinstance(image, ImageFeatures) and torch.equal(image.pooler_output, one['mm_encoder_outputs']['image'].pooler_output)


def test_full_disk_is_said_before(base, processor, rows, tmp_path, monkeypatch):
    import shutil
    model = adapted(base)
    cache = FeatureCache(tmp_path, model, processor)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(VQAError, match='GB are free'): cache.add(rows['image'], model, processor)
    assert not list(cache.folder.glob('*.npy'))
