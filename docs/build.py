"""Build the site: the README as first page, every notebook a chapter, every module an API page.

    python docs/build.py [FOLDER]        # default: docs/_build; the site is FOLDER/html
"""
import shutil, sys
from pathlib import Path

import nbformat
import typer
from sphinx.cmd.build import build_main
from typer.cli import get_docs_for_click

from house import ROOT, rooms

from paligemma_vqa.command.cli import app


def for_readers(notebook:Path) -> nbformat.NotebookNode:
    "Without what is only for nbdev: directives, hidden cells; with the language, which Sphinx wants to know for the colours"
    chapter = nbformat.read(notebook, 4)
    chapter.metadata['language_info'] = {'name': 'python', 'pygments_lexer': 'ipython3'}
    chapter.cells = [cell for cell in chapter.cells if not cell.source.startswith(('#| hide', '#| default_exp'))]
    for cell in chapter.cells:
        if cell.cell_type == 'code': cell.source = '\n'.join(line for line in cell.source.splitlines() if not line.startswith('#| '))
    chapter.cells = [cell for cell in chapter.cells if cell.source]
    return chapter


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
    first = {room.chapters[0].path: room for room in rooms()}
    for notebook in (source / 'nbs').rglob('*.ipynb'):
        chapter, room = for_readers(notebook), first.get(ROOT / notebook.relative_to(source))
        if room: chapter.cells.append(nbformat.v4.new_markdown_cell(contents('Chapters', [chapter.path.stem for chapter in room.chapters[1:]])))
        nbformat.write(chapter, notebook)
    pages = sorted(path.name for path in ROOT.glob('*.md') if path.name != 'README.md')
    for page in pages: (source / page).write_text((ROOT / page).read_text(encoding='utf-8').replace('](README.md)', '](index.md)'), encoding='utf-8')
    shutil.copy(ROOT / 'LICENSE', source)

    (source / 'api').mkdir()
    index, of_rooms = ['# Modules', '', 'A room stands above all that it imports.'], []
    for room in rooms():
        of_rooms.append(room.chapters[0].path.relative_to(ROOT).with_suffix('').as_posix())
        index += ['', f'## {room.title}', '', f'{room.line}', '', '| module | |', '|---|---|']
        for chapter in room.chapters:
            if not chapter.is_imported: continue
            index.append(f'| [{chapter.name}]({chapter.module}.md) | {chapter.line} |')
            page = command_help() if chapter.module == 'command.cli' else (
                f'# {chapter.module}\n\n```{{eval-rst}}\n.. automodule:: paligemma_vqa.{chapter.module}\n   :members:\n   :undoc-members:\n```')
            where = chapter.path.relative_to(ROOT).as_posix()
            (source / f'api/{chapter.module}.md').write_text(f'{page}\n\nIts chapter, with examples and tests: [{chapter.title}](../{where}).\n', encoding='utf-8')
    modules = [chapter.module for room in rooms() for chapter in room.chapters if chapter.is_imported]
    (source / 'api/index.md').write_text('\n'.join([*index, '', contents('Modules', modules)]), encoding='utf-8')

    def notebooks_in(folder): return [path.relative_to(source).with_suffix('').as_posix() for path in sorted((source / 'nbs' / folder).glob('*.ipynb'))]
    tables = [contents('Tutorials', notebooks_in('tutorials')), contents('Rooms', of_rooms), contents('A GPU', ['nbs/gpu']),
              contents('Measured', notebooks_in('benchmarks')), contents('Reference', ['api/index']),
              contents('The project', ['中文说明 <README.zh-CN>' if page == 'README.zh-CN.md' else page.removesuffix('.md') for page in pages])]
    (source / 'index.md').write_text((ROOT / 'README.md').read_text(encoding='utf-8') + '\n' + '\n'.join(tables), encoding='utf-8')


def build(folder:Path) -> int:
    "Exit status; a warning, such as a link that leads nowhere, is an error"
    lay_out(folder / 'source')
    return build_main(['-E', '-W', '--keep-going', '-q', '-c', str(ROOT / 'docs'), '-d', str(folder / 'doctrees'),
                       str(folder / 'source'), str(folder / 'html')])


if __name__ == '__main__': sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / 'docs/_build'))
