"""Our weights in a Python that never heard of this package, by the program that their card shows"""
import base64, json, os, re, socket, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path

import pytest

from paligemma_vqa.model.base import base_folder
from small_dataset import make_folder
from terminal import run

pytestmark = pytest.mark.slow
OTHERS = [Path(folder) for folder in os.environ.get('OTHER_TRANSFORMERS', '').split(os.pathsep) if folder]
# Made by, for example: pip install --no-deps --target OLD 'transformers==4.57.*' 'huggingface_hub<1' 'tokenizers<0.23.1'

DRIVER = """
import json, sys
code, pictures = json.load(open(sys.argv[1]))
for picture in pictures: exec(code.replace('picture.jpg', picture), {})
import transformers
assert 'paligemma_vqa' not in sys.modules and sys.argv[2] in (transformers.__file__, ''), transformers.__file__
"""


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A data set and an adapter that has learned it"
    root = tmp_path_factory.mktemp('plain')
    data = make_folder(root / 'data', videos=3, frames=4, size=224, answer_format='json')   # not the one that a schema names first
    options = dict(max_steps=60, learning_rate=6e-3, batch_size=6)
    done = run('train', '--data', data, '--model', 'tiny', '--output', root / 'run', *(word for name, value in options.items() for word in ('--set', f'{name}={value}')))
    assert done.returncode == 0, done.stderr
    return data, root / 'run/adapter'


def answers(data, folder) -> dict[str, str]:
    done = run('infer', '--image_path', data / 'images', '--lora_path', folder, '--json')
    assert done.returncode == 0, done.stderr
    return {str(data / 'images' / Path(one['image']).name): one['answer'] for one in map(json.loads, done.stdout.splitlines())}


def asked_plainly(folder, pictures, tmp_path, transformers:Path|None=None) -> list[str]:
    "What the program in the card prints for each picture"
    [code] = re.findall(r'Without paligemma_vqa:\n\n```python\n(.*?)```', (folder / 'README.md').read_text(encoding='utf-8'), re.DOTALL)
    code = code.replace('path/of/this/folder', str(folder)).replace('path/of/bases/tiny', str(base_folder('tiny')))
    (tmp_path / 'asked.json').write_text(json.dumps([code, list(pictures)]))
    (tmp_path / 'driver.py').write_text(DRIVER)
    environment = os.environ | dict(HF_HUB_OFFLINE='1', PYTHONPATH=str(transformers or ''))
    done = subprocess.run([sys.executable, 'driver.py', 'asked.json', str(transformers / 'transformers/__init__.py') if transformers else ''], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_the_adapter_in_plain_peft_says_what_infer_says(trained, tmp_path):
    data, adapter = trained
    expected = answers(data, adapter)
    assert asked_plainly(adapter, expected, tmp_path) == list(expected.values())
    assert len(set(expected.values())) > 2 and all(isinstance(json.loads(answer), dict) for answer in expected.values())


@pytest.fixture(scope='module')
def merged(trained):
    data, adapter = trained
    folder = adapter.parent / 'merged'
    done = run('merge', '--lora_path', adapter, '--output', folder)
    assert done.returncode == 0 and 'transformers 4.57 or newer' in done.stderr, done.stderr
    return folder, answers(data, adapter)


@pytest.mark.parametrize('transformers', [None, *OTHERS], ids=str)
def test_the_merged_checkpoint_says_what_infer_says(merged, tmp_path, transformers):
    folder, expected = merged
    assert asked_plainly(folder, expected, tmp_path, transformers) == list(expected.values())


def test_the_merged_checkpoint_in_other_versions(merged):
    if not OTHERS: pytest.skip('OTHER_TRANSFORMERS names no folders with other versions')
    assert {folder.name for folder in OTHERS} and all((folder / 'transformers').is_dir() for folder in OTHERS)


@pytest.fixture(scope='module')
def serving(tmp_path_factory):
    "What `transformers[serving]` adds to this environment"
    folder = tmp_path_factory.mktemp('serving')
    done = subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--target', str(folder), 'fastapi', 'uvicorn', 'openai'], capture_output=True, text=True)
    if done.returncode: pytest.skip(f'the server cannot be installed: {done.stderr[-200:]}')
    return folder


def test_the_server_of_transformers_says_what_infer_says(merged, serving, tmp_path):
    folder, expected = merged
    with socket.socket() as free: free.bind(('127.0.0.1', 0)); port = free.getsockname()[1]
    environment = os.environ | dict(HF_HUB_OFFLINE='1', PYTHONPATH=str(serving))
    with (tmp_path / 'log').open('w') as log:
        server = subprocess.Popen([sys.executable, '-c', 'from transformers.cli.transformers import main; main()', 'serve', str(folder), '--device', 'cpu', '--port', str(port)],
                                  env=environment, cwd=tmp_path, stdout=log, stderr=log)
    try:
        for picture, answer in list(expected.items())[:4]:
            address = 'data:image/png;base64,' + base64.b64encode(Path(picture).read_bytes()).decode()
            body = dict(model=str(folder), temperature=0, max_tokens=96, messages=[dict(role='user', content=[dict(type='image_url', image_url=dict(url=address))])])
            assert _post(f'http://127.0.0.1:{port}/v1/chat/completions', body, server, tmp_path / 'log')['choices'][0]['message']['content'] == answer
    finally:
        server.terminate()
        server.wait(20)


def _post(address, body, server, log, seconds=120) -> dict:
    "Waits for the server to be there"
    request = urllib.request.Request(address, json.dumps(body).encode(), {'Content-Type': 'application/json'})
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer: return json.load(answer)
        except urllib.error.HTTPError as error: raise AssertionError(f'{error.code} {error.read()[-800:]} {log.read_text()[-2000:]}') from None
        except OSError:
            assert server.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)
