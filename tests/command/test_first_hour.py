"The first hour with one's own recording: the five lines of the README run, and every command ends with the next one, in words that can be pasted"
import re, shlex, shutil
from pathlib import Path

import pytest
import typer
from terminal import fails, run

from paligemma_vqa.display import counted
from paligemma_vqa.command.cli import app
from paligemma_vqa.dataset.records import load_schema
from paligemma_vqa.labeling.store import LabelStore
from paligemma_vqa.scenes import make_video, plan_scene
from paligemma_vqa.training.config import TrainingConfig

README = Path(__file__).resolve().parents[2] / 'README.md'
COMMANDS = typer.main.get_command(app).commands
TOO_GOOD = 'Training and test are parts of the same recordings, so figures are too good.'


def next_of(done) -> list[str]:
    "The words of the last line, once a shell has read them"
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith('Next'), done.stdout
    words = shlex.split(last[last.index('paligemma-vqa'):])
    options = {option for parameter in COMMANDS[words[1]].params for option in parameter.opts}
    assert {word for word in words if word.startswith('--')} <= options, words
    return words[1:]


def draw(path:Path, seed:int=7, duration_s:float=40.):
    return make_video(path, plan_scene(seed, duration_s=duration_s, fps=4, name=path.stem), size=96)


def label(folder:Path, truth:dict):
    "What an expert does in the tool"
    with LabelStore(folder, 'ann') as store:
        for item in store.items:
            info = store.info(item)
            store.annotate(item, truth[info['video']].annotation(info['time_s']))
        store.set_status(list(store.items), 'done')


def test_every_command_on_the_way_names_the_next(tmp_path):
    home = tmp_path / """Dr. O'Neill, 手术 "b" $HOME"""
    home.mkdir()
    truth = draw(home / 'op.mp4')
    data = home / 'op'
    frames = run('frames', home / 'op.mp4', '--every', '2')
    assert next_of(frames) == ['label', str(data)] and '3 videos are needed' in frames.stdout
    asked = shlex.join(['paligemma-vqa', 'label', str(data)])
    for command in (('split', data), ('train', '--data', data), ('card', data), ('evaluate', '--data', data, '--model', 'tiny')):
        fails(*command, says=[f'there is no labels.jsonl. Label it first: {asked}'])
    label(data, {'op': truth})
    lint = run('lint', data)
    assert next_of(lint)[:3] == ['train', '--data', str(data)] and '3 videos are needed' in lint.stdout
    split = run('split', data)
    assert next_of(split)[:3] == ['train', '--data', str(data)] and TOO_GOOD in split.stdout and 'by blocks of time' in split.stdout
    assert next_of(run('card', data)) == ['split', str(data)]
    table = run('export', data, home / 'labels.csv')
    again = shlex.split(table.stderr.splitlines()[-1].partition(': ')[2])
    assert again[1:] == ['import', str(home / 'labels.csv'), str(data), '--replace']
    assert next_of(run(*again[1:])) == ['lint', str(data)]


def test_lint_names_what_mends(tmp_path):
    scene = draw(tmp_path / 'op.mp4')
    run('frames', tmp_path / 'op.mp4', '--every', '4')
    label(tmp_path / 'op', {'op': scene})
    with open(tmp_path / 'op/labels.jsonl', 'a') as file: file.write('{"image": "images/x')
    done = run('lint', tmp_path / 'op')
    assert done.returncode == 2 and done.stdout.splitlines()[-1].endswith(shlex.join(['paligemma-vqa', 'lint', str(tmp_path / 'op'), '--fix']))
    assert next_of(run('lint', tmp_path / 'op', '--fix'))[0] == 'train'


def test_two_recordings_that_look_alike_are_explained(tmp_path):
    "Hundreds of pairs of pictures are one sentence about two videos"
    truth = {name: draw(tmp_path / f'{name}.mp4', seed) for name, seed in (('a', 1), ('b', 2), ('c', 3), ('again', 1))}
    for name in truth: run('frames', tmp_path / f'{name}.mp4', '--output', tmp_path / 'data')
    label(tmp_path / 'data', truth)
    done = run('lint', tmp_path / 'data')
    assert done.stdout.count("again_") == 1 and 'more pairs of these two videos' in done.stdout
    from paligemma_vqa.dataset import read_splits, write_splits
    run('split', tmp_path / 'data')
    splits = read_splits(tmp_path / 'data')
    sides = dict(train=('a', 'b'), validation=('c',), test=('again',))
    write_splits(tmp_path / 'data', type(splits)(sides, splits.by, splits.seed, splits.ratios))
    done = run('split', tmp_path / 'data')
    assert re.search(r"""\d\d+ such pairs of 'a' and 'again': if both are of one recording or one patient, give them the same "video" """, done.stdout)


def test_help_of_train_says_the_values_of_both_presets():
    default, tiny = TrainingConfig.preset('default'), TrainingConfig.preset('tiny')
    told = {parameter.name: parameter.help for parameter in COMMANDS['train'].params}
    for name in ('epochs', 'batch_size', 'learning_rate'):
        said = re.search(r'Default (\S+); tiny (\S+?)\.$', told[name])
        assert [float(said[1]), float(said[2])] == [getattr(default, name), getattr(tiny, name)], name
    assert f'Default {default.mode}' in told['mode'] and default.mode == tiny.mode


def test_an_old_split_with_everything_in_training_names_the_way_out(tmp_path):
    data = tmp_path / 'one video'
    scene = draw(tmp_path / 'op.mp4')
    run('frames', tmp_path / 'op.mp4', '--output', data, '--every', '2')
    label(data, {'op': scene})
    from paligemma_vqa.dataset import Splits, write_splits
    write_splits(data, Splits(dict(train=('op',), validation=(), test=()), 'record'))
    way_out = shlex.join(['paligemma-vqa', 'split', str(data), '--anew'])
    fails('train', '--data', data, '--model', 'tiny', '--output', tmp_path / 'run', says=['split is empty', way_out])
    assert next_of(run(*shlex.split(way_out)[1:]))[0] == 'train'


def five_lines() -> list[list[str]]:
    block = next(block for block in re.findall(r'```\n(.*?)```', README.read_text(encoding='utf-8'), re.DOTALL) if block.startswith('paligemma-vqa frames'))
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]


def prepare(case:str, folder:Path) -> dict:
    "What somebody has before the first line; what is in it"
    draw(folder / 'other.mp4', 99, 10)
    if case == 'pictures':
        for number in range(12):
            make_video(folder / 'film.mp4', plan_scene(number, duration_s=8, fps=1, name='film'), size=96)
            run('frames', folder / 'film.mp4', '--output', folder / 'cut')
            (folder / 'data/images').mkdir(parents=True, exist_ok=True)
            for path in (folder / 'cut/images').iterdir(): shutil.move(path, folder / f'data/images/picture {number} {path.stem[-1]}.jpg')
            shutil.rmtree(folder / 'cut')
        return {}
    names = ['operation'] if case == 'one video' else ['operation', 'second']
    return {name: draw(folder / f'{name}.mp4', seed) for seed, name in enumerate(names)}


@pytest.mark.slow
@pytest.mark.parametrize('case', ['one video', 'two videos', 'pictures'])
def test_the_five_lines_of_the_readme(case, tmp_path, monkeypatch):
    "As they stand there, but for the model and the length of training"
    monkeypatch.chdir(tmp_path)
    truth = prepare(case, tmp_path)
    frames, label_line, train, evaluate, video = five_lines()
    train[train.index('google/paligemma2-3b-pt-448')] = 'tiny'
    if case == 'pictures':
        with LabelStore(Path('data'), 'ann') as store:
            for number, item in enumerate(store.items): store.annotate(item, {} if number % 3 else {'A': '2'})
            store.set_status(list(store.items), 'done')
    else:
        assert next_of(run(*frames)) == ['label', 'data']
        if case == 'two videos': assert next_of(run('frames', 'second.mp4', *frames[2:])) == ['label', 'data']
        assert run(*label_line, '--no-browser').returncode == 0
        label(Path('data'), truth)
    trained = run(*train, '--set', 'max_steps=4')
    assert next_of(trained) == ['evaluate', '--data', 'data', '--lora-path', 'runs/first/adapter']
    scored = run(*evaluate)
    assert next_of(scored)[0] == 'video'
    report = (tmp_path / 'runs/first/adapter/evaluation/report.html').read_text(encoding='utf-8')
    card = (tmp_path / 'runs/first/adapter/README.md').read_text(encoding='utf-8')
    for text in (trained.stdout, scored.stdout, report, card): assert (TOO_GOOD in text) == (case != 'pictures')
    assert next_of(run(*video))[0] in ('video', 'label') and (tmp_path / 'runs/other/timeline.png').exists()
    split = run('split', 'data').stdout
    assert ('by groups of pictures that look alike' if case == 'pictures' else 'by blocks of time') in split
    assert load_schema(Path('data')).events


CASES = Path(__file__).resolve().parents[1] / 'dataset' / 'cases'
SAID = [{}, {'A': '1'}, {'A': '1', 'B': '2'}, {'A': '2'}, {}]


def rows_of(header:str) -> list[list[str]]:
    "The cells of a table of the README"
    lines = README.read_text(encoding='utf-8').splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(header))
    rows = []
    for line in lines[start + 2:]:
        if not line.startswith('|'): break
        rows.append([cell.strip() for cell in line.strip('|').split('|')])
    return rows


def pictures_of(folder:Path, names) -> Path:
    from PIL import Image
    (folder / 'images').mkdir(parents=True)
    for name in names: Image.new('RGB', (32, 24)).save(folder / 'images' / name)
    return folder


def a_video(folder:Path, name:str='op', step:int=10, count:int=5) -> Path:
    "Frames that `frames` took, without labels"
    import json
    frames = [(f'{name}_{n * step:06d}.jpg', n * step) for n in range(count)]
    pictures_of(folder, [image for image, _ in frames])
    (folder / 'frames.jsonl').write_text(''.join(json.dumps(dict(image=f'images/{image}', video=name, frame_index=i, time_s=i / 25)) + '\n' for image, i in frames))
    return folder


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "The same five labels as each tool would have them"
    from paligemma_vqa.dataset import Record, write_records
    from paligemma_vqa.schema import EventSchema
    folder = a_video(tmp_path_factory.mktemp('exported') / 'data')
    schema = EventSchema()
    write_records(folder, [Record(f'images/op_{n * 10:06d}.jpg', schema.question(), schema.render(said), dict(video='op', frame_index=n * 10, time_s=n * .4))
                           for n, said in enumerate(SAID)])
    formats = {'label-studio': 'json', 'cvat': 'xml', 'cvat-video': 'xml', 'coco': 'json', 'csv': 'csv', 'paligemma': 'jsonl', 'messages': 'jsonl', 'sharegpt': 'json',
               'llava': 'json', 'imagefolder': 'csv', 'per-frame': 'txt', 'intervals': 'csv', 'elan': 'eaf', 'boris': 'boris'}
    files = {name: folder.parent / f'{name}.{suffix}' for name, suffix in formats.items()}
    for name, path in files.items(): assert run('export', folder, path, '--format', name).returncode == 0, name
    return files


COMING_FROM = {   # first word of a row of the README: formats that we write too, and files that others wrote, with what their pictures are called
    'Label': (['label-studio'], []), 'CVAT': (['cvat', 'cvat-video'], []), 'COCO': (['coco'], []),
    'Excel,': (['csv'], [('table_gbk.csv', 2), ('table_semicolon_bom.csv', 2)]),
    'PaliGemma,': (['paligemma', 'messages', 'sharegpt', 'llava'], [('roboflow_paligemma.jsonl', 1), ('messages_images.jsonl', 1), ('sharegpt.json', 1)]),
    'an': (['imagefolder'], []), 'a': (['per-frame'], [('phase_per_frame.txt', 8), ('tool_presence.txt', 8)]),
    'intervals': (['intervals'], [('intervals.csv', 20)]), 'ELAN,': (['elan', 'boris'], []),
}


@pytest.mark.parametrize('row', rows_of('| from | what comes in'), ids=lambda row: row[0])
def test_what_somebody_comes_from_comes_in(row, exported, tmp_path):
    "Each row's command, as it stands there, with a file of each kind"
    from paligemma_vqa.dataset import read_records
    words = shlex.split(row[2].strip('`'))[1:]
    ours, others = COMING_FROM[row[0].split()[0]]
    for name in ours:
        data = a_video(tmp_path / name)
        done = run(words[0], exported[name], data, *words[3:], '--empty', 'nothing')
        assert done.returncode == 0, (name, done.stderr)
        assert [load_schema(data).parse(record.answer) for record in read_records(data)] == SAID, name
    for name, count in others:
        file, data = CASES / name, tmp_path / name
        if name == 'intervals.csv': a_video(data, 'op1', 25, 20)
        elif name.endswith('.txt'): a_video(data, file.stem, 25, 8)
        else: pictures_of(data, ('a_000030.jpg', 'a_000040.jpg'))
        done = run(words[0], file, data, *words[3:], *(['--empty', 'nothing'] if name == 'intervals.csv' else []))
        assert done.returncode == 0 and f'{counted(count, "picture")} labeled' in done.stdout, (name, done.stderr)
