"The report before a sceptic, and what was measured on the way to a video"
import json, re, shutil, subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import CHROMIUM
from paligemma_vqa.command.page import gallery, page
from paligemma_vqa.command.report import baselines_of, evaluate, keep_smoothing, summary_table
from paligemma_vqa.command.train import _measure
from paligemma_vqa.command.truth import task_of, truth_of
from paligemma_vqa.command.video import _task_near
from paligemma_vqa.dataset.records import load_schema, read_records, write_records
from paligemma_vqa.evaluation.answers import answered, rank_frames
from paligemma_vqa.evaluation.metrics import frame_metrics, simulate_frames
from paligemma_vqa.inference.predictor import Predictor
from paligemma_vqa.model.adapter import AdapterInfo
from paligemma_vqa.model.base import base_folder
from paligemma_vqa.scenes.videos import make_video, plan_scene
from paligemma_vqa.schema import EventSchema
from paligemma_vqa.video.belief import Choice, smoothing_of
from terminal import run


@pytest.fixture(scope='module')
def evaluated(trained, tmp_path_factory):
    "The adapter of `trained`, in a folder of its own, scored by the command"
    folder = tmp_path_factory.mktemp('evaluated')
    shutil.copytree(trained / 'run' / 'adapter', folder / 'adapter')
    done = run('evaluate', '--data', trained / 'data', '--lora-path', folder / 'adapter', '--output', folder / 'report', '--json')
    assert done.returncode == 0, done.stderr
    return folder


def test_the_report_says_who_on_what_and_made_how(trained, evaluated):
    report, page = json.loads((evaluated / 'report' / 'report.json').read_text()), (evaluated / 'report' / 'report.html').read_text()
    info = AdapterInfo.load(evaluated / 'adapter')
    assert report['model']['path'] == str(evaluated / 'adapter') and report['model']['created_at'] == info.created_at
    assert report['model']['mode'] == 'lora' and report['model']['question'] == info.question and len(report['model']['weights']) == 16
    assert report['dataset']['fingerprint'] == info.dataset_fingerprint == report['model']['dataset_fingerprint'] and not report['cautions']
    assert report['made_with']['command'].startswith('paligemma-vqa evaluate --data ') and report['made_with']['versions']['torch']
    for fact in (str(evaluated / 'adapter'), report['model']['weights'], info.dataset_fingerprint, report['made_with']['command'].split()[1]): assert fact in page
    for video in report['per_video']: assert f'<title>{video}: ' in page
    assert '<script' not in page and '://' not in page and 'prefers-color-scheme: dark' in page
    assert all(re.search(r'alt="[^"]+', image) for image in re.findall(r'<img [^>]+>', page)) and page.count('aria-label') > 6
    ids, links = set(re.findall(r'id="([^"]+)"', page)), set(re.findall(r'href="#([^"]+)"', page))
    assert links and links <= ids                     # every word that is linked is explained


def test_baselines_stand_beside_the_model_with_intervals_and_one_that_is_ahead_is_said(evaluated):
    report = json.loads((evaluated / 'report' / 'report.json').read_text())
    row = report['baselines']['linear probe on SigLIP']
    assert set(row['overall']['event_f1']) == {'value', 'low', 'high'} and row['ahead']['event_f1']['difference'] < 0
    for text in (summary_table(report), (evaluated / 'report' / 'report.html').read_text()):
        assert 'linear probe on SigLIP is ahead of the model in event F1' in text and 'without a language model' in text


def test_a_video_is_smoothed_as_was_measured_for_its_adapter(trained, evaluated, tmp_path):
    info = AdapterInfo.load(evaluated / 'adapter')
    assert info.smoothing['measured_on']['data'] == info.dataset_fingerprint and info.smoothing['reason']
    predictor = Predictor.from_adapter(evaluated / 'adapter')
    assert keep_smoothing(predictor, Choice('median', None, 'median', reason='as a test wants it'))
    make_video(video := tmp_path / 'scene.mp4', plan_scene(77, duration_s=3))
    def smoothing(*options):
        done = run('video', '--video-path', video, '--lora-path', evaluated / 'adapter', '--output', tmp_path / 'out', '--fps', 2, '--no-annotated', '--json', *options)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)['smoothing']
        assert found == json.loads((tmp_path / 'out' / 'report.json').read_text())['smoothing'] and found['name'] in done.stderr
        return found['method'], found['reason']
    assert smoothing() == ('median', 'as a test wants it')
    assert smoothing('--method', 'raw') == ('raw', 'asked for')


def test_training_ends_with_how_its_videos_are_smoothed(trained, tmp_path):
    "Once, by the command, on the validation videos; the adapter, its card and `video` know it from then on"
    shutil.copytree(trained / 'run', folder := tmp_path / 'run')
    replace(AdapterInfo.load(folder / 'adapter'), smoothing={}).save(folder / 'adapter')   # another test may have measured it
    data = tmp_path / 'data'
    data.mkdir()
    for name in ('images', 'labels.jsonl', 'schema.json'): (data / name).symlink_to(trained / 'data' / name)
    splits = json.loads((trained / 'data' / 'splits.json').read_text())
    videos = sorted(name for names in splits['splits'].values() for name in names)
    splits['splits'] = dict(train=videos[:4], validation=videos[4:7], test=videos[7:])
    (data / 'splits.json').write_text(json.dumps(splits))
    told = [_measure(SimpleNamespace(run_dir=folder, adapter_dir=folder / 'adapter'), data) for _ in range(2)]
    kept = AdapterInfo.load(folder / 'adapter').smoothing
    assert told == [f"{kept['name']} ({kept['reason']})", None] and '3 validation videos' in kept['reason']      # the second time it is known
    assert f"smoothed by {kept['name']}" in (folder / 'adapter' / 'README.md').read_text()
    assert smoothing_of(Predictor.from_adapter(folder)).name == kept['name']


def test_an_adapter_that_cannot_be_written_is_scored_all_the_same(trained, monkeypatch):
    predictor = Predictor.from_adapter(trained / 'run' / 'adapter')
    before = AdapterInfo.load(trained / 'run' / 'adapter').smoothing
    predictor.folder = Path('/proc/1/none')
    with pytest.warns(UserWarning, match='not kept'): assert not keep_smoothing(predictor, Choice('raw', None, 'frame by frame'))
    assert AdapterInfo.load(trained / 'run' / 'adapter').smoothing == before


def packed(folder, to, as_shards=False):
    "The same data set, in shards or with its pictures inside Parquet files"
    import datasets
    schema, records = load_schema(folder), read_records(folder)
    to.mkdir()
    schema.save(to / 'schema.json')
    if as_shards:
        (to / 'images').symlink_to(folder / 'images')
        shutil.copy(folder / 'splits.json', to)
        for i in range(3): write_records(to / f'labels-{i:05d}-of-00003.jsonl', records[i::3])
        return to
    for side, name in (('train', 'train'), ('validation', 'dev'), ('test', 'test')):
        named = {Path(image).name for image in truth_of(folder, side).images}
        rows = [dict(image=dict(path=Path(r.image).name, bytes=(folder / r.image).read_bytes()), question=r.question, answer=r.answer, video=r.video, time_s=r.time_s)
                for r in records if Path(r.image).name in named]
        datasets.Dataset.from_list(rows).cast_column('image', datasets.Image(decode=False)).to_parquet(to / f'{name}-00000-of-00001.parquet')
    return to


@pytest.mark.parametrize('as_shards', [True, False])
def test_shards_and_pictures_inside_parquet_are_scored_alike(trained, tmp_path, as_shards):
    predictor, other = Predictor.from_adapter(trained / 'run'), packed(trained / 'data', tmp_path / 'packed', as_shards)
    monkey = dict(baselines=False, batch_size=16)
    predictor.folder = None                              # nothing is kept
    expected, found = (evaluate(predictor, folder, **monkey) for folder in (trained / 'data', other))
    for key in ('overall', 'over_time', 'calibration', 'temperature'): assert found[key] == expected[key]
    assert found['leaks']['is_clean'] == expected['leaks']['is_clean'] and not any('not readable' in check for check in found['leaks']['checks'])
    assert found['dataset']['fingerprint'] != expected['dataset']['fingerprint'] and found['cautions']


def test_a_base_is_asked_what_the_data_set_asks(trained, tmp_path):
    folder = tmp_path / 'list'
    shutil.copytree(trained / 'data', folder, ignore=shutil.ignore_patterns('*.mp4'))
    schema = load_schema(folder)
    write_records(folder, [replace(r, question=schema.question('short'), answer=schema.render(schema.parse(r.answer), 'list')) for r in read_records(folder)])
    task = task_of(folder)
    base = Predictor.from_base('tiny', task)
    assert (base.answer_format, base.question) == ('list', schema.question('short')) == (task.answer_format, task.question)
    done = run('evaluate', '--data', folder, '--model', 'tiny', '--no-baselines', '--output', tmp_path / 'out', '--json')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)['model']['answer_format'] == 'list'


def test_infer_and_video_ask_a_base_what_the_data_set_asks(trained, photographs, tmp_path):
    "`--data` and `--fit-to` say the question and the form of the answers, not the schema alone"
    folder, schema = tmp_path / 'list', load_schema(trained / 'data')
    folder.mkdir()
    (folder / 'images').symlink_to(trained / 'data' / 'images')
    shutil.copy(trained / 'data' / 'schema.json', folder)
    write_records(folder, [replace(r, question=schema.question('short'), answer=schema.render(schema.parse(r.answer), 'list')) for r in read_records(trained / 'data')])
    done = run('infer', '--image-path', photographs, '--model', 'tiny', '--data', folder, '--json')
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines(): assert schema.parse(json.loads(line)['answer'], 'list') is not None
    assert (task := _task_near(None, folder)).answer_format == 'list' and task.question == schema.question('short')


def test_an_adapter_whose_base_is_elsewhere_now_is_scored_all_the_same(trained, tmp_path):
    predictor = Predictor.from_adapter(trained / 'run', base=base_folder('tiny'))
    assert predictor.base == base_folder('tiny') and predictor.info.base_model == 'tiny'
    train, test = truth_of(trained / 'data', 'train', predictor.schema), truth_of(trained / 'data', 'test', predictor.schema)[:8]
    test = answered(test, predictor.predict_each(list(test.images)))
    predictor.base = str(tmp_path / 'gone')              # as for a merged model on another machine
    with pytest.warns(UserWarning, match='base without its adapter is not scored'): rows = baselines_of(predictor, train, test)
    assert 'base without adapter' not in rows and 'linear probe on SigLIP' in rows


def test_the_bare_base_is_asked_as_its_adapter_was(trained):
    predictor, asked = Predictor.from_adapter(trained / 'run'), []
    class Watched(Predictor):
        @classmethod
        def from_base(cls, name, task, **options): asked.append((task, options)); return Predictor.from_base(name, task, **options)
    predictor.__class__ = Watched
    train, test = truth_of(trained / 'data', 'train', predictor.schema), truth_of(trained / 'data', 'test', predictor.schema)[:8]
    baselines_of(predictor, train, answered(test, predictor.predict_each(list(test.images))))
    assert asked == [(predictor.task, dict(device='cpu', dtype=predictor.model.dtype))]


@pytest.mark.slow
@pytest.mark.browser
def test_hostile_names_do_nothing_in_a_browser(photographs, tmp_path):
    schema = EventSchema(events=('<script>document.title=1</script>', '<img src=x onerror=document.title=2>', '</style><svg onload=document.title=3>'), phases=('<b>1</b>', '2 & 3'))
    frames = simulate_frames(schema=schema, videos=2, frames=60)
    path = tmp_path / '<img src=x onerror=document.title=4>.jpg'
    shutil.copy(next(photographs.glob('*.jpg')), path)
    frames = replace(frames, videos=[f'<i onclick=x>{video}' for video in frames.videos], images=[str(path)] * len(frames))
    text = page(frame_metrics(frames), schema, {name: gallery(frames, rows) for name, rows in rank_frames(frames).items()},
                [('adapter', '<script>document.title=5</script>')])
    (tmp_path / 'report.html').write_text(text)
    shown = subprocess.run([CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom', f'file://{tmp_path}/report.html'],
                           capture_output=True, text=True, timeout=120).stdout
    assert '<title>Evaluation of a model</title>' in shown and '&lt;script&gt;document.title=1' in shown and '<i onclick' not in shown
