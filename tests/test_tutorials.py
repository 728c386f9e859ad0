"""The tutorials run from a clean kernel, top to bottom, one after the other, and still print what they are shown to print."""
import re, shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = sorted((Path(__file__).parent.parent / 'nbs' / 'tutorials').glob('*.ipynb'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Where all four run: each goes on with what the one before it left"
    return tmp_path_factory.mktemp('tutorials')


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


@pytest.mark.slow
@pytest.mark.parametrize('path', TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(path, folder):
    kept = nbformat.read(path, as_version=4)
    shutil.copy(path, folder)
    ran = NotebookClient(nbformat.read(path, as_version=4), timeout=900, resources=dict(metadata=dict(path=str(folder)))).execute()
    for before, after in zip(kept.cells, ran.cells):
        if before.cell_type != 'code': continue
        assert pictures(after) == pictures(before), f'other pictures than kept:\n{before.source}'
        if '#| varies' not in before.source: assert printed(after) == printed(before), f'other output than kept:\n{before.source}'


def test_there_are_four(): assert [path.stem for path in TUTORIALS] == ['01_label', '02_finetune', '03_evaluate', '04_video']
