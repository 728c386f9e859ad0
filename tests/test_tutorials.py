"""The tutorials run from a clean kernel, top to bottom, one after the other, and still print what they are shown to print."""
import json, re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from paligemma_vqa.labeling.store import LabelStore
from paligemma_vqa.scenes import make_video, plan_scene

TUTORIALS = sorted((Path(__file__).parent.parent / 'nbs' / 'tutorials').glob('*.ipynb'))


def printed(cell) -> str:
    "What a cell prints, and its value, without what differs between two machines: digits after a point, addresses, widths"
    texts = []
    for output in cell.outputs:
        if output.output_type == 'stream' and output.name == 'stdout': texts.append(output.text)
        data = output.get('data', {})
        if 'application/vnd.jupyter.widget-view+json' in data or 'image/png' in data: continue
        texts.append(data.get('text/markdown') or data.get('text/plain', ''))
    return re.sub(r'\s+', ' ', re.sub(r'[+-]?\d+\.\d+', '#', '\n'.join(texts))).strip()


def pictures(cell) -> int: return sum('image/png' in output.get('data', {}) for output in cell.outputs)


def execute(path:Path, folder:Path, *changes:tuple[str, str]):
    "The notebook as it ran in `folder`, with words of it exchanged first"
    notebook = nbformat.read(path, as_version=4)
    for old, new in changes:
        cells = [cell for cell in notebook.cells if cell.cell_type == 'code' and old in cell.source]
        assert len(cells) == 1, old
        cells[0].source = cells[0].source.replace(old, new)
    return NotebookClient(notebook, timeout=900, resources=dict(metadata=dict(path=str(folder)))).execute()


def check(path:Path, folder:Path) -> None:
    "The tutorial runs in `folder` and shows what it is kept with"
    kept, ran = nbformat.read(path, as_version=4), execute(path, folder)
    for before, after in zip(kept.cells, ran.cells):
        if before.cell_type != 'code': continue
        assert not [output.text for output in after.outputs if output.get('name') == 'stderr'], f'red on the page:\n{before.source}'
        assert pictures(after) == pictures(before), f'other pictures than kept:\n{before.source}'
        if '#| varies' not in before.source: assert printed(after) == printed(before), f'other output than kept:\n{before.source}'


@pytest.mark.slow
def test_tutorials(tmp_path, subtests):
    "All four in one folder, each going on with what the one before it left, and what the model has learned then"
    for path in TUTORIALS:
        with subtests.test(path.stem): check(path, tmp_path)
    report = json.loads((tmp_path/'runs/tutorial/first/evaluation/report.json').read_text(encoding='utf-8'))
    constant, before = (report['baselines'][name]['overall'] for name in ('best constant answer', 'base without adapter'))
    assert report['overall']['event_f1']['value'] > 0.9 and report['overall']['event_f1']['low'] > max(constant['event_f1']['value'], before['event_f1']['value'])
    assert report['overall']['phase_accuracy']['low'] > constant['phase_accuracy']['value']
    assert report['leaks']['is_clean'] and report['overall']['parse_rate']['value'] == 1
    video = json.loads((tmp_path/'runs/tutorial/unseen/report.json').read_text(encoding='utf-8'))['metrics']
    assert video['smoothed']['f1@50'] >= video['raw']['f1@50'] and video['smoothed']['f1@50'] > 0.6


def marks(folder:Path) -> dict: return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.mark.slow
def test_your_own_videos(tmp_path):
    "As the pages say it, each twice, on two recordings; nothing of anybody's is touched"
    own = tmp_path/'my videos'
    truth = {name: make_video(own/f'{name}.mp4', plan_scene(seed, duration_s=24, fps=5, name=name), size=96) for seed, name in enumerate(('monday', 'tuesday'))}
    make_video(tmp_path/'other.mp4', plan_scene(9, duration_s=8, fps=5), size=96)
    for name in ('mine/notes.txt', 'tutorial/data/mine.txt', 'next/labels.jsonl', 'experts.csv', 'mine/experts.csv'):
        (tmp_path/'runs'/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/'runs'/name).write_text('somebody wrote this\n')
    before = marks(tmp_path)
    videos, runs = ('own = None ', f'own = Path({str(own)!r})   '), ("runs = Path('runs/tutorial')", "runs = Path('runs/mine')")
    label, train, score, watch = TUTORIALS
    assert 'nothing is labeled yet' in str([cell.get('outputs') for cell in execute(label, tmp_path, videos).cells])
    with LabelStore(tmp_path/'runs/mine/data', 'ann') as store:
        for item in store.items:
            info = store.info(item)
            store.annotate(item, truth[info['video']].annotation(info['time_s']))
        store.set_status(list(store.items), 'done')
    labels = (tmp_path/'runs/mine/data/labels.jsonl').read_bytes()
    execute(label, tmp_path, videos)
    for _ in range(2): execute(train, tmp_path, runs, ('epochs=6', 'max_steps=4'))
    report = execute(score, tmp_path, runs)
    assert 'figures are too good' in str([cell.get('outputs') for cell in report.cells])
    for _ in range(2): execute(watch, tmp_path, ("Path('runs/tutorial'), None", f"Path('runs/mine'), Path({str(tmp_path/'other.mp4')!r})"))
    assert (tmp_path/'runs/mine/other/timeline.png').exists() and (tmp_path/'runs/mine/data/labels.jsonl').read_bytes() == labels
    assert {path: mark for path, mark in marks(tmp_path).items() if path in before} == before


def test_there_are_four(): assert [path.stem for path in TUTORIALS] == ['01_label', '02_finetune', '03_evaluate', '04_video']
