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


def complaint(words, limit_s=20) -> str | None:
    "What is wrong with how the command answered; None when all is well"
    out, err = io.TextIOWrapper(io.BytesIO(), encoding='utf-8', write_through=True), io.TextIOWrapper(io.BytesIO(), encoding='utf-8', errors='backslashreplace', write_through=True)
    def late(*_): raise TimeoutError(f'longer than {limit_s} s')
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(limit_s)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = run(words)
    except BaseException as error: return f'{type(error).__name__}: {str(error)[:300]}'
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    out, err = (stream.buffer.getvalue().decode('utf-8', 'replace') for stream in (out, err))
    lines = [line for line in err.splitlines() if line.startswith('Error:')]
    if code not in (0, 1, 2, 130): return f'exit code {code}'
    if 'Traceback' in err: return 'a traceback'
    if words[:1] == ['lint'] and out and not lines: return   # findings are the result; 2 says that there are errors
    if code and len(lines) != 1 and words: return f'exit code {code} and {len(lines)} lines of error: {err[-300:]}'
    if '--json' in words:
        try: [json.loads(line, parse_constant=lambda name: 1 / 0) for line in out.splitlines()]
        except (ValueError, ZeroDivisionError): return f'not pure JSON: {out[:200]}'


@pytest.mark.parametrize('name', [name for name in COMMANDS if name not in ('demo', 'doctor')])
def test_a_bad_command_line_gets_one_line(name, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [words for words in command_lines(world, tmp_path / 'out') if words[:1] == [name]]
    start, found = time.monotonic(), {}
    for words in lines:
        if wrong := complaint(words): found[shortened(words)] = wrong
    print(f'{name}: {len(lines)} command lines in {time.monotonic() - start:.0f} s')
    assert not found, '\n'.join(f'{words}\n    {wrong}' for words, wrong in found.items())


def test_there_are_enough_of_them(world, tmp_path): assert sum(1 for _ in command_lines(world, tmp_path)) >= 500


def test_lines_without_a_command(world, tmp_path):
    for words in [words for words in command_lines(world, tmp_path) if words[:1] == [] or words[0] not in COMMANDS]:
        assert complaint(words) is None, (words, complaint(words))
