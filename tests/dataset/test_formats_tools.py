"""What we write is read by the tools themselves, and what they write is read by us. The tools come from PyPI, into an environment of their own."""
import json, os, shutil, subprocess, sys
from pathlib import Path

import pytest
from PIL import Image

from paligemma_vqa.dataset.formats import export_labels, import_labels
from paligemma_vqa.dataset.records import Record, write_records
from paligemma_vqa.schema import EventSchema

pytestmark = pytest.mark.slow
SCHEMA = EventSchema()
SAID = [{}, {'A': '1'}, {'A': '1', 'B': '2'}, {'A': '2'}, {}]

def installed(folder, packages:str):
    "A folder with tools and only what they need beside this environment: datumaro alone would bring gigabytes"
    done = subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(folder), *packages.split()], capture_output=True, text=True)
    if done.returncode: pytest.skip(f'the tools cannot be installed: {done.stderr[-200:]}')
    return folder

@pytest.fixture(scope='module')
def tools(tmp_path_factory):
    return installed(tmp_path_factory.mktemp('tools'), 'datumaro==1.9.1 pympi-ling==1.71 shapely orjson defusedxml ruamel.yaml nibabel networkx tabulate tritonclient json_stream '
                     'json-stream-rs-tokenizer diskcache cryptography cffi pycparser lxml nltk regex joblib click tensorboardX pycocotools imagesize portalocker pyemd')

@pytest.fixture(scope='module')
def label_studio(tmp_path_factory):
    return installed(tmp_path_factory.mktemp('label_studio'), 'label-studio-sdk==2.1.2 appdirs faker ijson jsf rstr smart-open ujson xmljson lxml nltk regex joblib click pyjwt wrapt')

@pytest.fixture(scope='module')
def boris(tmp_path_factory):
    return installed(tmp_path_factory.mktemp('boris'), 'boris-behav-obs==8.27.4 tablib PyQt5 PyQt5-sip PyQt5-Qt5')

@pytest.fixture
def folder(tmp_path):
    root = tmp_path/'data'
    (root/'images').mkdir(parents=True)
    records = []
    for n, said in enumerate(SAID):
        Image.new('RGB', (64, 48)).save(root/f'images/op_{n * 10:06d}.jpg')
        records.append(Record(f'images/op_{n * 10:06d}.jpg', SCHEMA.question(), SCHEMA.render(said), dict(video='op', frame_index=n * 10, time_s=n * 0.4)))
    write_records(root, records)
    (root/'frames.jsonl').write_text(''.join(json.dumps(dict(image=r.image) | r.extra) + '\n' for r in records))
    return root

def run(tools, code, *arguments):
    done = subprocess.run([sys.executable, '-c', code, *map(str, arguments)], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(tools)))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]

def back(path, folder, **options): return [SCHEMA.parse(record.answer) for record in import_labels(path, folder, empty='nothing', write=False, **options).records]

READ = '''
import sys, json
from datumaro.components.dataset import Dataset
data = Dataset.import_from(sys.argv[1], sys.argv[2])
names = [label.name for label in data.categories()[list(data.categories())[0]]] if data.categories() else []
found = {item.id.split('/')[-1]: sorted([names[a.label], str(a.attributes.get('phase', '')).removesuffix('.0')] for a in item.annotations if not a.attributes.get('outside')) for item in data}
print(json.dumps(found))
if len(sys.argv) > 4: data.export(sys.argv[4], sys.argv[3])
'''

def test_datumaro_reads_and_writes_cvat(tools, folder, tmp_path):
    export_labels(folder, tmp_path/'set/annotations.xml', 'cvat')
    shutil.copytree(folder/'images', tmp_path/'set/images/images')   # datumaro wants the pictures
    found = json.loads(run(tools, READ, tmp_path/'set', 'cvat', 'cvat', tmp_path/'again'))
    assert found['op_000020'] == [['A', '1'], ['B', '2']] and found['op_000000'] == []
    written, = (tmp_path/'again').rglob('*.xml')
    assert back(written, folder) == SAID

def test_datumaro_reads_the_tracks_of_a_video(tools, folder, tmp_path):
    export_labels(folder, tmp_path/'set/annotations.xml', 'cvat-video')
    found = json.loads(run(tools, READ, tmp_path/'set', 'cvat'))
    assert {tuple(pair) for pairs in found.values() for pair in pairs} >= {('A', '1'), ('A', '2'), ('B', '2')}

def test_datumaro_reads_and_writes_coco(tools, folder, tmp_path):
    export_labels(folder, tmp_path/'set/annotations/instances_default.json', 'coco')
    shutil.copytree(folder/'images', tmp_path/'set/images/default/images')   # datumaro wants the pictures
    found = json.loads(run(tools, READ, tmp_path/'set', 'coco', 'coco_instances', tmp_path/'again'))
    assert found['op_000020'] == [['A: 1', '1'], ['B: 2', '2']]
    written, = (tmp_path/'again').rglob('instances*.json')
    assert back(written, folder) == SAID

def test_pympi_reads_and_writes_elan(tools, folder, tmp_path):
    export_labels(folder, tmp_path/'op.eaf')
    code = '''
import sys, json
from pympi.Elan import Eaf
eaf = Eaf(sys.argv[1])
print(json.dumps({tier: eaf.get_annotation_data_for_tier(tier) for tier in eaf.get_tier_names()}))
made = Eaf()
made.add_linked_file('op.mp4', mimetype='video/mp4')
for tier, said in dict(A=[(400, 1200, '1'), (1200, 1600, '2')], B=[(800, 1200, '2')]).items():
    made.add_tier(tier)
    for one in said: made.add_annotation(tier, *one)
made.remove_tier('default')
made.to_file(sys.argv[2])
'''
    found = json.loads(run(tools, code, tmp_path/'op.eaf', tmp_path/'made.eaf'))
    assert found['A'] == [[400, 1200, '1'], [1200, 1600, '2']] and found['B'] == [[800, 1200, '2']] and found['C'] == []
    assert back(tmp_path/'made.eaf', folder) == SAID

def test_boris_opens_what_we_export_and_we_read_what_it_exports(boris, folder, tmp_path):
    "It pairs every start with a stop, and its tables say what we said"
    export_labels(folder, tmp_path/'op.boris')
    code = f'''
import os, sys
os.environ['QT_QPA_PLATFORM'] = 'offscreen'
sys.path.insert(0, {str(Path(__file__).parent)!r})
from make_cases import boris_exports
boris_exports(*sys.argv[1:])
print('done')
'''
    run(boris, code, tmp_path/'op.boris', tmp_path)
    for name in ('project.boris', 'tabular.tsv', 'aggregated.tsv'): assert back(tmp_path/name, folder) == SAID, name

def test_label_studio_validates_and_converts_what_we_export(label_studio, folder, tmp_path):
    "Its own code checks tasks against the configuration, and makes JSON-MIN and CSV of them as its server does"
    export_labels(folder, tmp_path/'tasks.json')
    code = '''
import sys, json
from pathlib import Path
from label_studio_sdk.converter.converter import Converter
from label_studio_sdk.label_interface import LabelInterface
root = Path(sys.argv[1])
config, tasks = (root/'tasks.config.xml').read_text(), json.loads((root/'tasks.json').read_text())
interface = LabelInterface(config)
interface.validate()
assert all(interface.validate_annotation(annotation) for task in tasks for annotation in task['annotations'])
for task in tasks: task['annotations'][0] |= dict(completed_by=1, created_at='2026-01-01T00:00:00Z', updated_at='2026-01-01T00:00:00Z', lead_time=1.0)   # as its server adds
(root/'kept.json').write_text(json.dumps(tasks))
converter = Converter(config, str(root), download_resources=False)
converter.convert_to_json_min(str(root/'kept.json'), str(root/'min'), is_dir=False)
converter.convert_to_csv(str(root/'kept.json'), str(root/'csv'), is_dir=False, sep=',', header=True)
print(len(tasks))
'''
    assert run(label_studio, code, tmp_path) == str(len(SAID))
    for path in (tmp_path/'tasks.json', tmp_path/'kept.json', tmp_path/'min/result.json', tmp_path/'csv/result.csv'): assert back(path, folder) == SAID, path
