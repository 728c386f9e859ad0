"""The house, read from its folders: rooms, their chapters and modules; writes the README's table and the map.

    python docs/house.py            # nbs/index.ipynb, README.zh-CN.md and nbs/images/map.svg
    python docs/house.py cells      # lines exported in one cell, and lines of example for each of them
"""
import re, statistics, sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / 'nbs'
COLORS = ('#999999', '#e69f00', '#56b4e9', '#009e73', '#f0e442', '#0072b2', '#d55e00', '#cc79a7', '#999933', '#333333')


@dataclass(frozen=True)
class Chapter:
    path: Path           # The notebook
    module: str | None   # Dotted, below the package; `labeling.__init__` for a room's own page
    title: str
    line: str            # What a reader can do afterwards

    @property
    def name(self) -> str: return self.module.rpartition('.')[2] if self.module else self.path.stem.partition('_')[2]

    @property
    def is_imported(self) -> bool:
        "Whether it exports a module with a name: not a room's own page, nor what `python -m` runs"
        return self.module is not None and self.name not in ('__init__', '__main__')


@dataclass(frozen=True)
class Room:
    folder: Path
    title: str
    line: str
    chapters: tuple[Chapter, ...]

    @property
    def modules(self) -> list[str]: return [chapter.name for chapter in self.chapters if chapter.is_imported]


def chapter(path:Path) -> Chapter:
    cells = nbformat.read(path, 4).cells
    text = '\n'.join(cell.source for cell in cells if cell.cell_type == 'markdown')
    module = next((cell.source.split()[2] for cell in cells if cell.source.startswith('#| default_exp ')), None)
    line = re.search(r'^> (.+(?:\n> .+)*)', text, re.MULTILINE)
    return Chapter(path, module, re.search(r'^# (.+)', text, re.MULTILINE)[1], line[1].replace('\n> ', ' ') if line else '')


def rooms() -> list[Room]:
    "Folders whose names begin with a digit; the first page of each says what it is for"
    found = []
    for folder in sorted(NOTEBOOKS.glob('[0-9]_*')):
        first, *others = [chapter(path) for path in sorted(folder.glob('[0-9]*.ipynb'))]
        found.append(Room(folder, first.title, first.line, (first, *others)))
    return found


def table(header:str) -> str:
    "Markdown: a row a room, with its modules in reading order"
    rows = [f'| [{room.title}](nbs/{room.folder.name}/{room.chapters[0].path.name}) | {", ".join(f"`{name}`" for name in room.modules)} |' for room in rooms()]
    return '\n'.join([header, '|---|---|', *rows])


def replace_table(text:str, header:str, prefix:str='') -> str:
    "The table below `header` anew"
    start = text.index(header)
    end = next((match.start() for match in re.finditer(r'\n(?!\|)', text[start:])), len(text) - start) + start
    return text[:start] + table(header).replace('](nbs/', f']({prefix}') + text[end:]


def text_at(x:float, y:float, text:str, size:float, fill:str='#222', anchor:str='start', bold:bool=False) -> str:
    return (f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" font-weight="{"bold" if bold else "normal"}" '
            f'text-anchor="{anchor}">{escape(text)}</text>')


def map_svg() -> str:
    "A column a room: its modules, from the ground up"
    house, width, step = rooms(), 140, 17
    height = 78 + step * max(len(room.modules) for room in house)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(house) + 12} {height + 12}" '
             'font-family="DejaVu Sans, Verdana, sans-serif" role="img" aria-label="Map of the package: a column a room, with its modules">',
             f'<rect width="{width * len(house) + 12}" height="{height + 12}" rx="10" fill="#ffffff"/>']
    for i, (room, color) in enumerate(zip(house, COLORS)):
        x = 10 + i * width
        parts += [f'<rect x="{x}" y="10" width="{width - 8}" height="{height - 8}" rx="8" fill="{color}" fill-opacity=".10" stroke="{color}"/>',
                  f'<rect x="{x}" y="10" width="{width - 8}" height="32" rx="8" fill="{color}"/>',
                  text_at(x + (width - 8) / 2, 31, f'{room.folder.name[0]}  {room.title}', 14, '#fff' if color in ('#0072b2', '#333333') else '#000', 'middle', True)]
        parts += [text_at(x + 12, 62 + step * n, name, 12) for n, name in enumerate(room.modules)]
    return '\n'.join([*parts, '</svg>', ''])


def write() -> None:
    (NOTEBOOKS / 'images/map.svg').write_text(map_svg(), encoding='utf-8')
    index = nbformat.read(NOTEBOOKS / 'index.ipynb', 4)
    for cell in index.cells:
        if '| room | modules |' in cell.source: cell.source = replace_table(cell.source, '| room | modules |')
    nbformat.write(index, NOTEBOOKS / 'index.ipynb')
    chinese = ROOT / 'README.zh-CN.md'
    chinese.write_text(replace_table(chinese.read_text(encoding='utf-8'), '| 房间 | 模块 |', 'nbs/'), encoding='utf-8')


def cells() -> None:
    "How long exported cells are, and how much example stands beside them (STYLE: 5 to 30 lines, at most 60; 0.6 lines of example a line)"
    print(f'{"chapter":34} {"cells":>5} {"mean":>5} {"most":>5} {"example a line":>15}')
    lengths, examples = [], 0
    for room in rooms():
        for chapter in room.chapters:
            code = [cell.source for cell in nbformat.read(chapter.path, 4).cells if cell.cell_type == 'code']
            exported = [len(source.splitlines()) - 1 for source in code if re.match(r'#\| exports?\b', source)]
            shown = sum(len(source.splitlines()) for source in code if not re.match(r'#\| (exports?|default_exp)\b', source))
            if not exported: continue
            lengths, examples = lengths + exported, examples + shown
            print(f'{room.folder.name}/{chapter.path.stem:24} {len(exported):5} {statistics.mean(exported):5.1f} {max(exported):5} {shown / sum(exported):15.2f}')
    print(f'{"all":34} {len(lengths):5} {statistics.mean(lengths):5.1f} {max(lengths):5} {examples / sum(lengths):15.2f}; over 60 lines: {sum(length > 60 for length in lengths)}')


if __name__ == '__main__': cells() if sys.argv[1:] == ['cells'] else write()
