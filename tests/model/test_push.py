"""An adapter goes to the hub: a stub that speaks the hub's HTTP stands in for it."""
import base64, hashlib, json, os, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from paligemma_vqa.model.adapter import AdapterConfig, AdapterInfo, add_adapter, describe_base, save_adapter
from paligemma_vqa.model.base import load_base
from paligemma_vqa.schema import EventSchema
from paligemma_vqa.training.card import write_model_card
from random_base import make_base

pytestmark = pytest.mark.slow


class Hub(BaseHTTPRequestHandler):
    "Repositories, what was committed to them, and objects that were uploaded"
    def log_message(self, *args): pass

    def reply(self, value, code=200):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self): return self.rfile.read(int(self.headers.get('Content-Length', 0)))

    def do_GET(self):
        name = self.path.partition('?')[0].removeprefix('/api/models/').partition('/revision/')[0]
        if self.server.token not in self.headers.get('Authorization', ''): return self.reply(dict(error='Invalid user token.'), 401)
        if name not in self.server.repositories: return self.reply(dict(error='Repository not found'), 404)
        self.reply(dict(id=name, private=self.server.repositories[name]['private'], sha='0' * 40, siblings=[]))

    def do_POST(self):
        server, path, body = self.server, self.path.partition('?')[0], self.body()
        server.asked.append(path)
        address = f'http://127.0.0.1:{server.server_port}'
        if server.token not in self.headers.get('Authorization', ''): return self.reply(dict(error='Invalid user token.'), 401)
        if path == '/api/repos/create':
            values = json.loads(body)
            name = f"{values.get('organization') or 'me'}/{values['name']}"
            taken = name in server.repositories
            server.repositories.setdefault(name, dict(private=values.get('private') or values.get('visibility') == 'private', files={}))
            return self.reply(dict(url=f'{address}/{name}', id=name), 409 if taken else 200)
        if path == '/api/validate-yaml': return self.reply(dict(errors=[], warnings=[]))
        if '/preupload/' in path:
            def mode(file): return 'lfs' if file['path'].endswith('.safetensors') else 'regular'
            return self.reply(dict(files=[dict(path=file['path'], uploadMode=mode(file), shouldIgnore=False) for file in json.loads(body)['files']]))
        if path.endswith('/info/lfs/objects/batch'):
            def action(one): return dict(oid=one['oid'], size=one['size'], actions=dict(upload=dict(href=f"{address}/lfs/{one['oid']}", header={})))
            return self.reply(dict(transfer='basic', objects=[action(one) for one in json.loads(body)['objects']]))
        if '/commit/' in path:
            name = path.removeprefix('/api/models/').partition('/commit/')[0]
            for line in map(json.loads, body.splitlines()):
                if line['key'] in ('file', 'lfsFile'): server.repositories[name]['files'][line['value']['path']] = line['value']
            return self.reply(dict(success=True, commitOid='1' * 40, commitUrl=f'{address}/{name}/commit/1', hookOutput=''))
        self.reply(dict(error=f'the stub does not know {path}'), 404)

    def do_PUT(self):
        data = self.body()
        self.server.objects[hashlib.sha256(data).hexdigest()] = len(data)
        self.reply({})


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    server.repositories, server.objects, server.asked, server.token = {}, {}, [], 'hf_secret'
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope='module')
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pushed')
    base = make_base(folder / 'base')
    model = add_adapter(load_base(base)[0], AdapterConfig())
    saved = save_adapter(model, folder / 'run/adapter', AdapterInfo(schema=EventSchema(), answer_format='json', **describe_base(model, base)))
    write_model_card(saved)
    (saved / 'optimizer.pt').write_bytes(b'not for others')
    return saved


def push(hub, folder, name='me/mine', token='hf_secret', tmp=None):
    code = 'import sys; from paligemma_vqa.command.push import push_adapter\ntry: print(push_adapter(*sys.argv[1:]))\nexcept Exception as e: print(type(e).__name__, e)'
    env = os.environ | dict(HF_ENDPOINT=f'http://127.0.0.1:{hub.server_port}', HF_TOKEN=token, HF_HUB_OFFLINE='0', HF_HUB_DISABLE_XET='1', HF_HOME=str(tmp))
    done = subprocess.run([sys.executable, '-c', code, str(folder), name], env=env, capture_output=True, text=True, timeout=500)
    return done.stdout.strip(), done.stderr


def test_an_adapter_arrives_whole_with_its_card_and_private(hub, adapter, tmp_path):
    said, errors = push(hub, adapter.parent, tmp=tmp_path)
    assert said == f'http://127.0.0.1:{hub.server_port}/me/mine (private)', (said, errors, hub.asked)
    files = hub.repositories['me/mine']['files']
    assert hub.repositories['me/mine']['private'] and set(files) == {'adapter_config.json', 'adapter_model.safetensors', 'paligemma_vqa.json', 'README.md'}
    def arrived(name): return base64.b64decode(files[name]['content']).decode()
    assert json.loads(arrived('paligemma_vqa.json'))['answer_format'] == 'json' and '> {&#34;A&#34;: &#34;1&#34;}' in arrived('README.md')
    weights = adapter / 'adapter_model.safetensors'
    assert hub.objects == {hashlib.sha256(weights.read_bytes()).hexdigest(): weights.stat().st_size}
    # again, to a repository that somebody made public meanwhile
    hub.repositories['me/mine']['private'] = False
    assert 'public, as it was before' in push(hub, adapter, tmp=tmp_path)[0]


def test_a_wrong_login_is_one_line(hub, adapter, tmp_path):
    said, errors = push(hub, adapter, token='hf_wrong', tmp=tmp_path)
    assert said.startswith("VQAError 'me/mine' on the hub cannot be written") and 'hf auth login' in said and 'Traceback' not in errors
