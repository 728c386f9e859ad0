"""Hundreds of bad command lines, made from what typer declares: one clear line each, never a traceback, a hang or a wrong exit code."""
import contextlib, io, itertools, json, signal, time
from typing import get_type_hints

import pytest
import typer

from paligemma_vqa.command.cli import app, run
from paligemma_vqa.scenes import make_dataset

COMMANDS = typer.main.get_command(app).commands
NUMBERS = ['nan', 'inf', '-inf', '-1', '0', '1e400', '9' * 30, 'seven', '', '0x10', '١٢']
TEXTS = ['', ' ', 'nope', '[', '{', '=', 'a=b=c', '../../etc', '__import__("os")', '$(id)', '"; rm x', '\x1b[31m', '\u202eabc', '图像', 'x' * 5000, '\udcff', 'a\0b', '-']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "Small good inputs, and bad ones of every kind"
    folder = tmp_path_factory.mktemp('world')
    make_dataset(folder / 'data', videos=3, size=48, frame_every=50)
    picture = next((folder / 'data/images').iterdir())
    (folder / 'empty').mkdir()
    (folder / 'file.txt').write_text('not what was asked for\n')
    (folder / 'torn.json').write_text('{"a": ')
    (folder / 'broken.mp4').write_bytes(b'\0' * 4000)
    (folder / 'binary.jsonl').write_bytes(bytes(range(256)) * 10)
    (folder / 'torn').mkdir()
    (folder / 'torn/labels.jsonl').write_bytes(b'{"image": "images/a.jpg", "question')
    (folder / 'torn/images').mkdir()
    (folder / 'adapter').mkdir()
    for name in ('adapter_config.json', 'paligemma_vqa.json'): (folder / 'adapter' / name).write_text('{}')
    (folder / 'loop').symlink_to(folder / 'loop')
    (folder / 'nowhere').symlink_to(folder / 'gone')
    return folder, picture


def paths(world) -> list[str]:
    folder, picture = world
    names = ['missing', 'empty', 'file.txt', 'torn.json', 'broken.mp4', 'binary.jsonl', 'torn', 'adapter', 'loop', 'nowhere', 'file.txt/below', 'x' * 300, 'a\0b', '图/像', '\udcff']
    return [*(str(folder / name) for name in names), str(picture), '', '/dev/null', '/proc/self/mem', '/proc/none', '-', '~nobody/x', '\x1b[31m']


def hostile(parameter, kinds, world) -> list[str]:
    kind = str(kinds.get(parameter.name))
    if 'Path' in kind: return paths(world)
    return NUMBERS if 'int' in kind or 'float' in kind else TEXTS + NUMBERS[:3]


def arguments_of(name, world, output):
    "What the command needs besides, each of it good, but for what would take long: there is no such model or adapter"
    folder, picture = world
    good = {'data': folder / 'data', 'video': folder / 'broken.mp4', 'file': folder / 'torn.json', 'image_path': picture, 'lora_path': folder / 'adapter',
            'output': output, 'video_path': folder / 'broken.mp4', 'model': None}
    if name in ('export',): good['file'] = output / 'out.csv'
    chosen = {parameter.name: good[parameter.name] for parameter in COMMANDS[name].params
              if parameter.name in good and good[parameter.name] is not None and (parameter.required or parameter.name in ('lora_path', 'video_path', 'output'))}
    if name == 'frames': chosen.pop('lora_path', None)
    return chosen


def command_lines(world, output):
    for name, command in COMMANDS.items():
        if name in ('demo', 'doctor'): continue
        kinds = get_type_hints(command.callback)
        for parameter in command.params:
            if parameter.name in ('help', 'browser') or getattr(parameter, 'is_flag', False): continue
            for value in hostile(parameter, kinds, world):
                words = arguments_of(name, world, output) | {parameter.name: value}
                if name == 'train': words['model'] = words['model'] if parameter.name == 'model' else str(world[0] / 'empty')
                if name == 'video' and parameter.name == 'source': words.pop('video_path', None)
                yield [name, *(['--no-browser'] if name == 'label' else []), *itertools.chain.from_iterable(
                    [str(words[p.name])] if not p.opts[0].startswith('--') else [f'{p.opts[0]}={words[p.name]}'] for p in command.params if p.name in words)]
    for words in ([], ['nope'], ['--nope'], ['infer'], ['infer', '--json'], ['train', '--data'], ['video', '--fps'], ['lint', 'a', 'b'], ['--json'], ['infer', '--image_path', 'x', '--', '--y']):
        yield words


def shortened(words) -> str: return ' '.join(word if len(word) < 80 else word[:40] + '…' for word in words).replace('\0', '\\0').encode('unicode_escape').decode()


def answer(words, limit_s=60) -> tuple[int, str, str]:
    "Exit code, standard output and standard error"
    out, err = io.TextIOWrapper(io.BytesIO(), encoding='utf-8', write_through=True), io.TextIOWrapper(io.BytesIO(), encoding='utf-8', errors='backslashreplace', write_through=True)
    def late(*_): raise TimeoutError(f'longer than {limit_s} s')
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(limit_s)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = run(words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, *(stream.buffer.getvalue().decode('utf-8', 'replace') for stream in (out, err))


def complaint(words, code, out, err) -> str | None:
    "What is wrong with how the command answered; None when all is well"
    lines = [line for line in err.splitlines() if line.startswith('Error:')]
    if code not in (0, 1, 2, 130): return f'exit code {code}'
    if 'Traceback' in err or 'should not happen' in err or 'longer than' in err: return f'an error that nobody foresaw: {err[-300:]}'
    if 'Error: a file:' in err: return f'a complaint of a file without its name: {err[-300:]}'
    if words[:1] == ['lint'] and out and not lines: return   # findings are the result; 2 says that there are errors
    if code and len(lines) != 1 and words: return f'exit code {code} and {len(lines)} lines of error: {err[-300:]}'
    if '--json' in words:
        try: [json.loads(line, parse_constant=lambda name: 1 / 0) for line in out.splitlines()]
        except (ValueError, ZeroDivisionError): return f'not pure JSON: {out[:200]}'


@pytest.mark.parametrize('half', [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', [name for name in COMMANDS if name not in ('demo', 'doctor')])
def test_a_bad_command_line_gets_one_line(name, half, world, tmp_path, monkeypatch):
    "The other half of them in `make test-all`"
    monkeypatch.chdir(tmp_path)
    lines = [words for words in command_lines(world, tmp_path / 'out') if words[:1] == [name]][half::2]
    start, found = time.monotonic(), {}
    for words in lines:
        if wrong := complaint(words, *answer(words)): found[shortened(words)] = wrong
    print(f'{name}: {len(lines)} command lines in {time.monotonic() - start:.0f} s')
    assert not found, '\n'.join(f'{words}\n    {wrong}' for words, wrong in found.items())


def test_there_are_enough_of_them(world, tmp_path): assert sum(1 for _ in command_lines(world, tmp_path)) >= 500


def test_lines_without_a_command(world, tmp_path):
    for words in [words for words in command_lines(world, tmp_path) if words[:1] == [] or words[0] not in COMMANDS]:
        assert (wrong := complaint(words, *answer(words))) is None, (words, wrong)


@pytest.fixture(scope='module')
def bad_lines(trained, bikes, tmp_path_factory):
    "With an adapter, a data set and a video that are good, so that nothing else is in the way: the line, and what it must say"
    folder = tmp_path_factory.mktemp('bad')
    adapter, data, file = trained / 'run/adapter', trained / 'data', folder / 'file'
    file.write_text('x')
    late = folder / 'late.csv'
    late.write_text('event,phase,start_s,end_s\nA,1,0:01,2\nA,2,half past,4\n')
    picture = next((data / 'images').iterdir())
    ask = ['infer', '--image_path', picture, '--lora_path', adapter]
    begin = ['train', '--data', data, '--model', 'tiny', '--output', folder / 'run']
    look, watch = ['video', '--video_path', bikes, '--lora_path', adapter, '--output', folder / 'v'], ['video', '--source', bikes, '--lora_path', adapter, '--output', folder / 'w']
    score = ['evaluate', '--data', data, '--lora_path', adapter]
    cut = ['frames', bikes, '--output', folder / 'frames']
    yield [
        *([*ask, '--device', name, f"no device '{name}'"] for name in ('nope', 'cuda:99', 'meta', 'cpu:x')),
        *([*ask, '--dtype', name, f"dtype is '{name}'"] for name in ('nope', 'int8', 'float64')),
        [*ask, '--quantization', 'nf8', "unknown quantization 'nf8'"], [*ask, '--device', '', '--device is empty'], [*ask, '--device=', '--device is empty'],
        [*ask, '--save_dir', '/proc/x', '/proc/x: nothing can be written'], [*ask, '--save_dir', picture.parent, 'over the pictures'],
        *([*command[:3], '--lora_path', file, 'file: is a file, not the folder of an adapter'] for command in (ask, score, ['video', '--video_path', bikes])),
        ['merge', '--lora_path', file, '--output', folder / 'm', 'is a file, not the folder of an adapter'], ['merge', '--lora_path', adapter, '--output', adapter, 'is not empty'],
        ['merge', '--lora_path', adapter, '--output', '/proc/x', 'nothing can be written'], ['label', data, '--no-browser', '--lora_path', file, 'is a file, not the folder'],
        *([*begin, '--set', text, says] for text, says in (
            ('epochs=[', "'epochs=[' cannot be read"), ('seed=5000000000', 'seed is 5000000000'), ('epochs=', 'epochs is None'), ('epochs=nan', 'epochs is'), ('learning_rate=1e38', 'learning_rate is 1e+38'), ('lora_rank=100000', '4096 at most'), ('base=[]', 'base is given twice'),
            ('workers=100000', 'workers is 100000'), ('max_steps=99999999999999999999', 'less than 2147483648'), ('eval_steps=9223372036854775808', 'less than 2147483648'),
            ('lora_targets=[nope]', 'nope'), ('report_to=[nope]', "no tracker 'nope'"), ('batch_size=1e99', 'batch_size is'), ('nope=1', "unknown setting 'nope'"), ('precision=fp16', 'fp16 needs a GPU'))),
        [*begin, '--config', data, f'{data}: cannot be read'], [*begin, '--config', '/proc/self/mem', '/proc/self/mem: '], [*begin, '--config', picture, 'not UTF-8'], [*begin, '--from', file, 'not the folder of an adapter'],
        [*begin, '--from', data, 'not an adapter folder'], [*begin, '--epochs', '3', '--set', 'epochs=5', 'epochs is given twice'], ['train', '--resume', '--output', folder / 'none', '--data'],
        *([*begin, *map(str, more), says] for *more, says in (
            ('--folds', 1, '1 fold leaves no videos'), ('--folds', 2, '2 folds leave no videos'), ('--folds', 99, 'groups cannot make 99 folds'), ('--folds', 3, '--from', adapter, '--folds measures'), ('--folds', 3, '--push', 'me/mine', '--folds measures'),
            ('--mode', 'full', '--set', 'lora_rank=4', 'lora_rank does nothing beside --mode full'), ('--epochs', 3, '--set', 'max_steps=2', 'epochs does nothing beside max_steps=2'), ('--from', adapter, '--set', 'lora_rank=3', 'in the adapter to go on from'))),
        *([*look, *map(str, more), says] for *more, says in (
            ('--before', 2, '--before says more about --clips'), ('--workers', 2, '--workers says more about --ray'), ('--ray', '--ray does nothing for one video'), ('--private', 'A', '--show-private', 'contradict each other'),
            ('--start', 'soon', "--start is 'soon'"), ('--start', 9, '--end', 9, '--end 9 is not after --start 9'), ('--fit-to', data, '--method', 'raw', '--fit-to does nothing'), ('--truth', late, "late.csv:3: start_s is 'half past', which is no number"))),
        [*look, '--fps', 'inf', 'fps'], [*look, '--fps', '1e300', 'fps'], [*look, '--alert', 'A', '--alert is only for a stream'], [*look, '--latency-budget', '3', 'only for a stream'], [*look, '--budget', '3', '--to-label'],
        [*look, '--to-label', file, 'file: is not a folder'], [*look, '--method', 'nope', "'nope'"], [*look, '--rules', file, 'list of rules'], [*look, '--truth', file, 'file:1'], [*look, '--fit-to', folder, 'labels.jsonl'],
        [*look[:-1], '/proc/x', 'nothing can be written'],
        *([*watch, option, value, f'{option} does nothing'] for option, value in (('--truth', file), ('--to-label', folder / 'q'), ('--budget', '3'), ('--skip-unchanged', '2'), ('--method', 'raw'))),
        [*watch, '--alert', 'ZZ', "'ZZ'"], [*watch, '--latency-budget', '0', 'latency budget is 0'], [*watch, '--lag', '-1', '--lag'],
        [*score, '--split', 'nope', "no split 'nope'"], [*score, '--output', file, 'is not a folder'], [*score, '--output', '/proc/x', 'nothing can be written'], [*score, '--against', file, 'not the folder of an adapter'],
        [*cut, '--every', '0', 'every 0'], [*cut, '--scene', '7', 'change by 7'], [*cut, '--uncertain', '-3', '--uncertain is -3'], [*cut, '--uncertain', '3', '--lora_path DIR'], [*cut, '--lora_path', adapter, 'nothing without --uncertain'],
        ['export', data, folder / 'x.csv', '--video', 'nope', "video 'nope'"], ['export', data, folder / 'x.csv', '--fps', '3', 'a rate means nothing for csv'], ['export', data, folder, 'is a folder'],
        ['export', data, '/dev/full', '--format', 'csv', '/dev/full: no space left'], ['export', data, '/proc/x.csv', 'nothing can be written'], ['split', data, '--by', 'video', '--gap', '5', 'a gap does nothing'], ['split', data, '--gap', '5', 'a gap does nothing'],
    ]


def test_bad_command_lines_with_a_real_adapter(bad_lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    for *words, says in bad_lines:
        words = list(map(str, words))
        code, out, err = answer(words, 60)
        if wrong := complaint(words, code, out, err) or (says not in err or code not in (1, 2) or out) and f'{code}: {err[-300:]}': found[shortened(words)] = wrong
    assert not found, '\n'.join(f'{words}\n    {wrong}' for words, wrong in found.items())
    assert not (tmp_path / 'runs').exists()


def test_a_password_in_an_address_is_told_by_no_command(tmp_path, monkeypatch):
    "Wherever it was typed: a `Path` makes one stroke of the two after rtsp, and it was printed"
    monkeypatch.chdir(tmp_path)
    address, lines = 'rtsp://ann:s3cr@et@camera/1', []
    for name, command in COMMANDS.items():
        if name in ('demo', 'doctor'): continue
        needed = [parameter for parameter in command.params if parameter.required and not parameter.opts[0].startswith('--')]
        lines += [[name, *[address] * len(needed), *(word for p in command.params if p.required and p not in needed for word in (p.opts[0], address))]]
        for parameter, kind in ((parameter, str(get_type_hints(command.callback).get(parameter.name))) for parameter in command.params):
            if parameter.opts[0].startswith('--') and 'Path' in kind: lines.append([*lines[-1][:1], *[tmp_path] * len(needed), parameter.opts[0], address])
    for words in lines:
        code, out, err = answer([str(word) for word in words] + ['--no-browser'] * (words[0] == 'label'))
        assert 's3cr' not in out + err, (words, out, err)
        assert not any('s3cr' in path.as_posix() for path in tmp_path.rglob('*')), words
