"""Build the site: the README as first page, every notebook a chapter, every module an API page.

    python docs/build.py [FOLDER]        # default: docs/_build; the site is FOLDER/html
"""
import ast, shutil, sys
from pathlib import Path

import nbformat
import typer
from sphinx.cmd.build import build_main
from typer.cli import get_docs_for_click

from paligemma_vqa.cli import app

ROOT = Path(__file__).resolve().parents[1]
# Chapters whose names begin so stand together in the side bar
PARTS = {'00': 'Foundations', '01': 'Labels', '02_': 'Labels', '02': 'Data', '03': 'Data', '04': 'Training', '05': 'Training',
         '06': 'Inference', '07': 'Inference', '08': 'Evaluation', '09f': 'Evaluation', '09': 'Video', '10': 'Synthetic videos', '12': 'Synthetic videos',
         '11': 'Running it', 'gpu': 'Running it', '': 'More'}


def part_of(name:str) -> str:
    "The longest beginning of `name` that is in `PARTS`"
    return PARTS[max((start for start in PARTS if name.startswith(start)), key=len)]


def for_readers(notebook:Path) -> nbformat.NotebookNode:
    "Without what is only for nbdev: directives, hidden cells; with the language, which Sphinx wants to know for the colours"
    chapter = nbformat.read(notebook, 4)
    chapter.metadata['language_info'] = {'name': 'python', 'pygments_lexer': 'ipython3'}
    chapter.cells = [cell for cell in chapter.cells if not cell.source.startswith(('#| hide', '#| default_exp'))]
    for cell in chapter.cells:
        if cell.cell_type == 'code': cell.source = '\n'.join(line for line in cell.source.splitlines() if not line.startswith('#| '))
    chapter.cells = [cell for cell in chapter.cells if cell.source]
    return chapter


def module_of(notebook:Path) -> str | None:
    "The module that a notebook exports"
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type == 'code' and cell.source.startswith('#| default_exp '): return cell.source.split()[2]


def title_of(notebook:Path) -> str:
    return next(line for cell in nbformat.read(notebook, 4).cells for line in cell.source.splitlines() if line.startswith('# ')).removeprefix('# ')


def command_help() -> str:
    "What `--help` says of each command"
    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name='paligemma-vqa')


def contents(caption:str, pages:list[str]) -> str:
    return '\n'.join(['```{toctree}', ':hidden:', ':maxdepth: 1', f':caption: {caption}', '', *pages, '```', ''])


def lay_out(source:Path) -> None:
    "Copy what is read into `source`, where links between README, chapters and tutorials are the same as in the repository"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / 'nbs', source / 'nbs', ignore=shutil.ignore_patterns('index.ipynb', '.*', 'runs', '_*'))
    for notebook in (source / 'nbs').rglob('*.ipynb'): nbformat.write(for_readers(notebook), notebook)
    pages = sorted(path.name for path in ROOT.glob('*.md') if path.name != 'README.md')
    for page in pages: (source / page).write_text((ROOT / page).read_text(encoding='utf-8').replace('](README.md)', '](index.md)'), encoding='utf-8')
    shutil.copy(ROOT / 'LICENSE', source)

    (source / 'api').mkdir()
    chapters, modules = {}, {}
    for notebook in sorted((ROOT / 'nbs').glob('*.ipynb')):
        if notebook.stem == 'index': continue
        chapters.setdefault(part_of(notebook.stem), []).append(f'nbs/{notebook.stem}')
        if module := module_of(notebook):
            modules[module] = ast.get_docstring(ast.parse((ROOT / f'paligemma_vqa/{module}.py').read_text(encoding='utf-8')))
            page = command_help() if module == 'cli' else f'# {module}\n\n```{{eval-rst}}\n.. automodule:: paligemma_vqa.{module}\n   :members:\n   :undoc-members:\n```'
            (source / f'api/{module}.md').write_text(f'{page}\n\nIts chapter, with examples and tests: [{title_of(notebook)}](../nbs/{notebook.name}).\n', encoding='utf-8')

    (source / 'api/index.md').write_text('\n'.join([
        '# Modules', '', 'In the order in which they build on each other.', '', '| module | |', '|---|---|',
        *(f'| [{module}]({module}.md) | {purpose} |' for module, purpose in modules.items()), '',
        contents('Modules', [*modules])]), encoding='utf-8')

    def notebooks_in(folder): return [path.relative_to(source).with_suffix('').as_posix() for path in sorted((source / 'nbs' / folder).glob('*.ipynb'))]
    tables = [contents('Tutorials', notebooks_in('tutorials')), *(contents(part, names) for part, names in chapters.items()),
              contents('Measured', notebooks_in('benchmarks')), contents('Reference', ['api/index']),
              contents('The project', ['中文说明 <README.zh-CN>' if page == 'README.zh-CN.md' else page.removesuffix('.md') for page in pages])]
    (source / 'index.md').write_text((ROOT / 'README.md').read_text(encoding='utf-8') + '\n' + '\n'.join(tables), encoding='utf-8')


def build(folder:Path) -> int:
    "Exit status; a warning, such as a link that leads nowhere, is an error"
    lay_out(folder / 'source')
    return build_main(['-E', '-W', '--keep-going', '-q', '-c', str(ROOT / 'docs'), '-d', str(folder / 'doctrees'),
                       str(folder / 'source'), str(folder / 'html')])


if __name__ == '__main__': sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / 'docs/_build'))
