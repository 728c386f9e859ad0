"""What a reader meets who opens a notebook: no question about the kernel, no dead widget, nobody else's paths."""
import re
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).parent.parent
NOTEBOOKS = sorted((REPOSITORY / 'nbs').glob('[!_]*.ipynb')) + sorted((REPOSITORY / 'nbs').glob('[!._]*/[!_]*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_opens_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.get('kernelspec', {}).get('name') == 'python3', 'JupyterLab would ask which kernel to use'
    assert set(notebook.metadata) == {'kernelspec'}
    for cell in notebook.cells:
        for output in cell.get('outputs', []):
            assert output.output_type != 'error', cell.source
            assert 'application/vnd.jupyter.widget-view+json' not in output.get('data', {}), f'a widget without its kernel shows nothing:\n{cell.source}'
            text = str(output.get('text', '')) + str(output.get('data', {}).get('text/plain', ''))
            assert not re.search(r'/(home|root|work|Users)/', text), f'a path of one machine:\n{text}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_leaves_warnings_as_they_were(path):
    "The doc tests run many chapters in one process"
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == 'code': assert not re.search(r'^(?:.*; *)?warnings\.(simplefilter|filterwarnings)', cell.source, re.M), cell.source
