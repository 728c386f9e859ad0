"What is written must hold: links lead somewhere, the site builds, the two READMEs say the same"
import json, re, shlex, subprocess, sys
from pathlib import Path

import pytest
import typer

from paligemma_vqa.command.cli import app
from paligemma_vqa.training.config import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(ROOT.glob('*.md'))
NOTEBOOKS = sorted(path for path in (ROOT / 'nbs').rglob('*.ipynb') if not {'runs', '.ipynb_checkpoints'} & set(path.parts))
LINK = re.compile(r'\]\(([^()\s]+)\)|(?:src|href)="([^"]+)"')
CODE = re.compile(r'```.*?```|`[^`\n]*`', re.DOTALL)


def prose(path:Path) -> str:
    if path.suffix == '.md': return path.read_text(encoding='utf-8')
    return '\n'.join(''.join(cell['source']) for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == 'markdown')


@pytest.mark.parametrize('path', [*PAGES, *NOTEBOOKS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    links = [a or b for a, b in LINK.findall(CODE.sub('', prose(path)))]
    local = [link.split('#')[0] for link in links if not re.match(r'[a-z]+:|#|attachment:', link)]
    assert [link for link in local if not (path.parent / link).exists()] == []


def commands(path:Path) -> list[list[str]]:
    "The words of every `paligemma-vqa …` that a reader is told to type"
    lines = [line for block in CODE.findall(prose(path)) for line in block.strip('`').replace('\\\n', ' ').splitlines()]
    starts = [re.search(r'(?:^|\s|!)paligemma-vqa +([a-z]+ .*|[a-z]+)$', line.split(' #')[0].strip()) for line in lines]
    return [shlex.split(start[1].replace('…', '')) for start in starts if start]


@pytest.mark.parametrize('path', [*PAGES, *NOTEBOOKS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_exist(path):
    known = typer.main.get_command(app).commands
    for name, *words in commands(path):
        assert name in known, name
        options = {option.lstrip('-').replace('_', '-') for parameter in known[name].params for option in parameter.opts}
        given = {word.lstrip('-').replace('_', '-') for word in words if word.startswith('--')}
        assert given <= options, (name, given - options)
        TrainingConfig().with_options([value for option, value in zip(words, words[1:]) if option == '--set'])


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    result = subprocess.run([sys.executable, str(ROOT / 'docs/build.py'), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    modules = {'.'.join(path.relative_to(ROOT / 'paligemma_vqa').with_suffix('').parts) for path in (ROOT / 'paligemma_vqa').rglob('[!_]*.py')}
    assert {path.stem for path in (tmp_path / 'html/api').glob('*.html')} - {'index'} == modules
    page = (tmp_path / 'html/api/training.config.html').read_text(encoding='utf-8')
    for comment in ('Examples per device and forward pass',            # of a field
                    'LoRA; LoRA on a 4-bit base; every weight',        # of a field that is inherited
                    'As on a command line'): assert comment in page    # of a parameter
    assert '--latency-budget' in (tmp_path / 'html/api/command.cli.html').read_text(encoding='utf-8')
    assert '#| export' not in (tmp_path / 'html/nbs/0_ground/01_schema.html').read_text(encoding='utf-8')


def outline(text:str) -> dict:
    "What two languages share: how deep each heading is, code without its comments, the numbers of each section, names, links"
    blocks = re.findall(r'```(.*?)```', text, re.DOTALL)
    rest = re.sub(r'```.*?```', '', text, flags=re.DOTALL)
    return dict(headings=[len(marks) for marks in re.findall(r'^(#+) ', rest, re.MULTILINE)],
                code=[[re.sub(r'\s*#.*', '', line).strip() for line in block.splitlines()] for block in blocks],
                numbers=[sorted(re.findall(r'\d[\d.,]*\d|\d', section)) for section in re.split(r'^#+ ', rest, flags=re.MULTILINE)],
                names=sorted(set(re.findall(r'`([^`\n]+)`', rest))),
                links=sorted(set(a or b for a, b in LINK.findall(rest)) - {'README.md', 'README.zh-CN.md'}))


def test_the_readmes_say_the_same():
    english, chinese = (outline((ROOT / name).read_text(encoding='utf-8')) for name in ('README.md', 'README.zh-CN.md'))
    for part in english: assert chinese[part] == english[part], part


def texts(path:Path) -> str:
    "All that a notebook's outputs print, and its code, which holds what is chosen"
    cells = [cell for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == 'code']
    shown = [output.get('text', output.get('data', {}).get('text/markdown', output.get('data', {}).get('text/plain', ''))) for cell in cells for output in cell['outputs']]
    return '\n'.join(''.join(text) for text in [*shown, *(cell['source'] for cell in cells)])


def test_measured_figures_are_printed_where_the_readme_says():
    "In the README's table of benchmarks each figure of a result stands, as it is, in an output of the notebook that is named"
    rows = [row.split('|')[1:-1] for row in (ROOT / 'README.md').read_text(encoding='utf-8').splitlines() if row.startswith('| ') and re.search(r'\]\(nbs/(benchmarks/|gpu\.ipynb\) \|$)', row)]
    assert len(rows) > 10
    number = re.compile(r'(?<![\w.])\d+(?:[.,]\d+)*')
    for what, against, measured, printed_by in rows:
        there = {found.replace(',', '') for found in number.findall(texts(ROOT / re.search(r'\((.+?)\)', printed_by)[1]).replace('_', ''))}
        said = {found.replace(',', '') for found in number.findall(measured + ' ' + against)}
        assert said <= there, (what.strip(), said - there)
