"""The house: imports between rooms go down only, what is derived from the folders is up to date, and names of before still work."""
import ast, importlib, importlib.util, re, subprocess, sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'docs'))
import house
from paligemma_vqa import FORMER


def test_imports_go_down_only():
    found = subprocess.run([Path(sys.executable).with_name('lint-imports'), '--no-cache'], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_notebooks_and_package_have_the_same_rooms():
    modules = {chapter.module for room in house.rooms() for chapter in room.chapters if chapter.module}
    files = {'.'.join(path.relative_to(ROOT / 'paligemma_vqa').with_suffix('').parts) for path in (ROOT / 'paligemma_vqa').rglob('*.py')}
    assert files - modules - {'__main__', '_modidx', 'command.__init__'} == set()
    assert modules - files == set()


def test_map_and_tables_follow_the_folders():
    assert (ROOT / 'nbs/images/map.svg').read_text(encoding='utf-8') == house.map_svg()
    for name, header in (('README.md', '| room | modules |'), ('README.zh-CN.md', '| 房间 | 模块 |')):
        assert house.table(header) in (ROOT / name).read_text(encoding='utf-8'), f'{name}: run make export'


@pytest.mark.parametrize('module', FORMER)
def test_a_module_of_before_is_found(module):
    with pytest.warns(DeprecationWarning, match='is now'):
        sys.modules.pop(f'paligemma_vqa.{module}', None)
        former = importlib.import_module(f'paligemma_vqa.{module}')
    for place in FORMER[module].split():
        new = importlib.import_module(f'paligemma_vqa.{place}')
        for name in new.__all__: assert getattr(former, name) is not None


@pytest.mark.parametrize('module, absent', [
    ('', 'numpy torch datasets pandas ipywidgets transformers'), ('.schema', 'numpy torch datasets pandas ipywidgets transformers'),
    ('.dataset.splits', 'torch datasets pandas'), ('.labeling.widget', 'torch datasets pandas sklearn scipy matplotlib'),
    ('.inference.predictor, paligemma_vqa.training.run', 'transformers datasets pandas sklearn scipy matplotlib'), ('.command.cli', 'torch cv2 matplotlib')])
def test_importing_costs_no_more_than_it_needs(module, absent):
    code = f'import sys, paligemma_vqa{module}; print(*[name for name in {absent.split()!r} if name in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip() == ''


def test_the_verbs_can_be_had_from_the_top():
    import paligemma_vqa
    for name in paligemma_vqa.__all__: assert callable(getattr(paligemma_vqa, name))


def imported_names() -> list[tuple[str, str, str]]:
    "Where, module, name: every name of ours that modules, notebooks and tests import, inside of functions too"
    sources = {path: path.read_text(encoding='utf-8') for folder in ('paligemma_vqa', 'tests', 'docs') for path in (ROOT / folder).rglob('*.py')}
    for path in (ROOT / 'nbs').rglob('*.ipynb'):
        if {'runs', '.ipynb_checkpoints'} & set(path.parts): continue
        cells = nbformat.read(path, 4).cells
        sources[path] = '\n'.join('\n'.join(line for line in cell.source.splitlines() if not line.lstrip().startswith(('%', '!'))) for cell in cells if cell.cell_type == 'code')
    found = []
    for path, text in sources.items():
        package = '.'.join(path.relative_to(ROOT).with_suffix('').parts[:-1])
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ImportFrom): continue
            module = importlib.util.resolve_name('.' * node.level + (node.module or ''), package) if node.level else node.module
            if module.split('.')[0] == 'paligemma_vqa' and module.removeprefix('paligemma_vqa.') not in FORMER:
                found += [(path.relative_to(ROOT).as_posix(), module, name.name) for name in node.names if name.name != '*']
    return found


def test_every_name_that_is_imported_is_there():
    missing = []
    for where, module, name in imported_names():
        owner = importlib.import_module(module)
        is_module = hasattr(owner, '__path__') and importlib.util.find_spec(f'{module}.{name}') is not None
        if not hasattr(owner, name) and not is_module: missing.append(f'{where}: {module}.{name}')
    assert not missing, '\n'.join(missing)


@pytest.mark.parametrize('line', (ROOT / 'tests/names_of_before.txt').read_text().splitlines(), ids=lambda line: line.partition(':')[0])
@pytest.mark.filterwarnings('ignore:.*is now:DeprecationWarning')
def test_public_names_of_version_0_1_are_importable_or_in_the_changelog(line):
    module, _, names = line.partition(': ')
    changelog, former = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'), importlib.import_module(f'paligemma_vqa.{module}')
    assert [name for name in names.split() if not hasattr(former, name) and f'`{module}.{name}`' not in changelog] == []


def test_a_name_that_a_room_hands_out_means_one_thing():
    "Nothing else of that name is made in another module. `evaluate` is the command that calls the function"
    made, handed_out = {}, set()
    for path in (ROOT / 'paligemma_vqa').rglob('[!_]*.py'):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            if isinstance(node, ast.FunctionDef | ast.ClassDef): names = [node.name]
            for name in names: made.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    for path in (ROOT / 'paligemma_vqa').rglob('__init__.py'):
        for names in re.findall(r"'[\w.]+': \[([^]]*)\]", path.read_text(encoding='utf-8')): handed_out |= set(re.findall(r"'(\w+)'", names))
    assert len(handed_out) > 100
    assert {name: sorted(made[name]) for name in handed_out - {'evaluate'} if len(made.get(name, ())) > 1} == {}


EXPORTED = [(f'{room.folder.name}/{chapter.path.name}', cell.source) for room in house.rooms() for chapter in room.chapters
            for cell in nbformat.read(chapter.path, 4).cells if cell.cell_type == 'code' and cell.source.startswith('#| export')]


def test_exported_cells_are_short():
    assert [(where, len(source.splitlines()) - 1) for where, source in EXPORTED if len(source.splitlines()) - 1 > 60] == []


def test_exported_lines_fit():
    assert [(where, line) for where, source in EXPORTED for line in source.splitlines() if len(line) > 120] == []


def test_public_functions_and_classes_say_what_they_do():
    missing = []
    def visit(where, nodes, above=''):
        for node in nodes:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'): continue
            # the commands of the labeling tool are said in one table, beside their keys
            if ast.get_docstring(node) is None and '08_commands' not in where: missing.append(f'{where}: {above}{node.name}')
            if isinstance(node, ast.ClassDef): visit(where, node.body, f'{node.name}.')
    for where, source in EXPORTED: visit(where, ast.parse(source).body)
    assert missing == []


def test_what_a_chapter_calls_is_shown():
    "The site leaves hidden cells out: they may import, and no more"
    for path in (ROOT / 'nbs').rglob('*.ipynb'):
        if {'runs', '.ipynb_checkpoints'} & set(path.parts): continue
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == 'code' and cell.source.startswith('#| hide'): assert not re.search(r'^(def|class) ', cell.source, re.MULTILINE), path
