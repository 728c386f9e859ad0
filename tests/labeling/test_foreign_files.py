"""What other programs leave where files of a folder should be: each is told or refused in one line, everything else opens,
and no label is lost over it."""
import io, json, os, shutil, sys
from pathlib import Path

import pytest
from PIL import Image

from paligemma_vqa.dataset.formats.cvat import write_cvat
from paligemma_vqa.dataset.lint import lint
from paligemma_vqa.dataset.records import LABELS, Record, read_records, write_records
from paligemma_vqa.labeling.session import LabelingSession, show
from paligemma_vqa.labeling.store import LabelStore
from paligemma_vqa.labeling.widget import LabelingTool
from paligemma_vqa.schema import EventSchema, VQAError

SCHEMA = EventSchema(events=('A', 'B'), phases=('1', '2', '3'))
FRAMES = [f'images/v_{frame:06d}.jpg' for frame in range(3)] + ['images/polyp.jpg']
SAID = {item: {'A': '1'} for item in FRAMES} | {FRAMES[0]: {'B': '2'}}


@pytest.fixture(scope='module')
def labeled(tmp_path_factory):
    folder = tmp_path_factory.mktemp('labeled')
    (folder/'images').mkdir()
    for item in FRAMES: Image.new('RGB', (8, 8)).save(folder/item)
    SCHEMA.save(folder/'schema.json')
    with LabelStore(folder, 'anna') as store: store.annotate(FRAMES, {'A': '1'}, hold='item')
    with LabelStore(folder, 'bert') as store: store.accept(FRAMES[0], {'B': '2'})
    return folder

@pytest.fixture
def folder(labeled, tmp_path): return Path(shutil.copytree(labeled, tmp_path/'data'))

def answers(folder): return {record.image: SCHEMA.parse(record.answer) for record in read_records(folder)}

CONTENT = {'nothing': b'', 'a lone mark': b'\xff\xfe\n', 'zeros': b'\x00' * 700, 'a list': b'[1, 2]\n', 'depth': b'[' * 20_000 + b'\n',
           'a page': b'<html><body>404</body></html>\n', 'UTF-16': '{"a": 1}\n'.encode('utf-16'), 'gzip': b'\x1f\x8b\x08\x00junk',
           'wrong kinds': b'{"sha256": 5, "made_from": 7, "kept": [3], "questions": 3, "lines": {"x": 3}, "A": 7, "answer_format": 1}\n',
           'a false note': b'{"sha256": "5", "made_from": [], "kept": ["{}"], "questions": ["x"], "lines": {"/x": {"7": "a"}}, "A": ["x"]}\n'}

def put(path, what):
    if path.is_symlink() or path.is_file(): path.unlink()
    if what in CONTENT: path.write_bytes(CONTENT[what])
    elif what == 'folder': path.mkdir()
    elif what == 'pipe': os.mkfifo(path)
    else: path.symlink_to(path if what == 'circle' else '/nowhere/at/all')

ODD = ('folder', 'pipe', 'circle', 'link')
MEMORY = ('labels/settings.json', 'labels/.compacted', 'labels/.exported', 'labels/.anna.owner', 'labels/.anna.copy', 'labels/.bert.copy',
          'labels/.anna.intervals', 'labels/.anna.lock', 'labels/.labels.lock')
DATA = (LABELS, 'frames.jsonl', 'queue.jsonl', 'labels/anna.jsonl', 'labels/bert.jsonl', 'labels/carla.jsonl')

@pytest.mark.parametrize('what', CONTENT)
def test_any_content_of_any_file(labeled, tmp_path, what):
    for number, name in enumerate((*MEMORY, *DATA)):
        folder = Path(shutil.copytree(labeled, tmp_path/f'{number}'))
        put(folder/name, what)
        with LabelStore(folder, 'anna') as store:
            session = LabelingSession(store, pause_s=0)
            assert store.annotators == ['anna', 'bert'], name
            is_unfinished = name == 'labels/carla.jsonl' and b'\n' not in CONTENT[what]    # somebody may be writing it just now
            if name in DATA and what != 'nothing' and not is_unfinished: assert any(name in notice for notice in store.notices), name
            store.accept(FRAMES[1], {'B': '3'})
            session.close()
        assert answers(folder) == SAID | {FRAMES[1]: {'B': '3'}}, name

@pytest.mark.parametrize('what', ODD)
def test_no_file_at_all(labeled, tmp_path, what):
    "A pipe is not waited for; what is ours to write is refused with its name, what is somebody else's is told"
    for number, name in enumerate((*MEMORY, *DATA, 'schema.json')):
        folder = Path(shutil.copytree(labeled, tmp_path/f'{number}'))
        put(folder/name, what)
        if name in (*MEMORY, 'schema.json', LABELS, 'labels/anna.jsonl') and name != 'labels/.bert.copy':
            with pytest.raises(VQAError, match=f'{name}: is a ') as refused: LabelStore(folder, 'anna')
            assert 'Move it away' in str(refused.value)
            continue
        with LabelStore(folder, 'anna') as store:
            LabelingSession(store, pause_s=0)
            assert name == 'labels/.bert.copy' or any(f'{name} ' in notice for notice in store.notices), name
            store.accept(FRAMES[1], {'B': '3'})
        assert answers(folder) == SAID | {FRAMES[1]: {'B': '3'}}, name

def test_a_line_of_the_queue_that_asks_for_nothing_locks_nobody_out(folder):
    (folder/'queue.jsonl').write_text(f'{{"note": "hi"}}\n{{"image": "{FRAMES[2]}", "bits": 2}}\n{{"image": 7, "bits": 1}}\n')
    with LabelStore(folder, 'anna') as store:
        store.set_status(FRAMES[2], 'todo')
        session = LabelingSession(store, pause_s=0)
        assert session.queue == [FRAMES[2]] and 'queue.jsonl:1' in session.message and '1 more' in session.message

@pytest.mark.parametrize('has_copy', [True, False])
def test_a_journal_of_somebody_else_that_is_gone_or_out_of_reach_takes_no_label_along(folder, has_copy):
    put(folder/'labels/bert.jsonl', 'circle')
    if has_copy: (folder/'labels/bert.jsonl').unlink()
    else: (folder/'labels/.bert.copy').unlink()
    for item in FRAMES[1], FRAMES[2]:
        with LabelStore(folder, 'anna') as store:
            assert ('bert.jsonl was deleted' if has_copy else 'bert.jsonl cannot be read') in store.notices[0]
            store.accept(item, {'B': '3'})
    assert answers(folder) == SAID | {item: {'B': '3'} for item in FRAMES[1:3]}
    bert, = [record for record in read_records(folder) if record.extra['annotator'] == 'bert']
    assert bert.image == FRAMES[0]

COPIES = ["anna (bert's conflicted copy 2026-03-01)", 'anna (conflicted copy 2026-03-01 101010)', 'anna-LAPTOP-7F3K', 'anna.sync-conflict-20260301-101010-ABCDEF7',
          'anna 2', 'anna - Kopie', 'Copy of anna', 'anna (1)']

@pytest.mark.parametrize('name', COPIES)
def test_a_conflicted_copy_is_nobody_and_is_told(folder, name):
    shutil.copy(folder/'labels/anna.jsonl', folder/f'labels/{name}.jsonl')
    shutil.copy(folder/LABELS, folder/f'{name.replace("anna", "labels")}.jsonl')
    with LabelStore(folder, 'bert') as store:
        assert store.annotators == ['anna', 'bert']
        notice, = store.notices
        assert f'{name}.jsonl:1: ' in notice and "signed by 'anna'" in notice
        store.set_flag(FRAMES[0])
    assert answers(folder) == SAID


# --- the question and the answer format of a folder

@pytest.mark.parametrize('written', ['list', 'json'])
@pytest.mark.parametrize('memory', ['note', 'lines', 'nothing but the journals'])
def test_a_folder_keeps_its_answer_format(folder, written, memory):
    with LabelStore(folder, 'anna', answer_format=written) as store: store.accept(FRAMES[1], {'A': '2'})
    before = {record.image: record.answer for record in read_records(folder)}
    if memory == 'lines': (folder/'labels/.compacted').unlink()
    if memory == 'nothing but the journals':
        for path in folder/LABELS, folder/'labels/.compacted': path.unlink()
        (folder/'labels/settings.json').write_text(json.dumps(dict(answer_format=written)))
    with LabelStore(folder, 'anna') as store:
        assert store.answer_format == written
        store.accept(FRAMES[2], {'B': '1'})
    after = {record.image: record.answer for record in read_records(folder)}
    assert after == before | {FRAMES[2]: SCHEMA.render({'B': '1'}, written)}

def test_what_comes_from_elsewhere_is_gone_on_with(tmp_path):
    (tmp_path/'images').mkdir()
    for item in FRAMES: Image.new('RGB', (8, 8)).save(tmp_path/item)
    SCHEMA.save(tmp_path/'schema.json')
    write_records(tmp_path, [Record(item, 'answer en Which events?', SCHEMA.render({'A': '1'}, 'list'), {}) for item in FRAMES[:2]])
    with LabelStore(tmp_path, 'anna') as store: store.accept(FRAMES[2], {'B': '3'})
    new, = [record for record in read_records(tmp_path) if record.image == FRAMES[2]]
    assert (new.question, new.answer) == ('answer en Which events?', SCHEMA.render({'B': '3'}, 'list'))
    with LabelStore(tmp_path, 'anna', answer_format='sentence') as store: assert store.answer_format == 'sentence'   # asked for
    with pytest.raises(VQAError, match="no answer format 'poem'"): LabelStore(tmp_path, 'anna', answer_format='poem')


# --- what phones and new cameras write

RED, GREEN, BLUE = (220, 30, 30), (30, 190, 40), (40, 50, 210)

@pytest.fixture
def phone(tmp_path):
    "Three pictures of a phone, wider than high, the JPEG held upright"
    heif = pytest.importorskip('pillow_heif')
    (tmp_path/'images').mkdir()
    heif.from_pillow(Image.new('RGB', (64, 48), RED)).save(tmp_path/'images/IMG_1.HEIC', quality=95)
    Image.new('RGB', (64, 48), GREEN).save(tmp_path/'images/IMG_2.avif', quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (64, 48), BLUE).save(tmp_path/'images/IMG_3.jpg', quality=95, exif=exif)
    SCHEMA.save(tmp_path/'schema.json')
    return tmp_path

SIZES = {'images/IMG_1.HEIC': (64, 48), 'images/IMG_2.avif': (64, 48), 'images/IMG_3.jpg': (48, 64)}

def seen(tool) -> tuple[tuple[int, int], tuple[int, ...]]:
    "Size and colour of what the browser is given"
    with Image.open(io.BytesIO(tool.image.value)) as picture: return picture.size, picture.convert('RGB').getpixel((20, 20))

def test_heic_and_avif_are_labeled_like_any_picture(phone):
    tool = LabelingTool(phone, annotator='anna', pause_s=0)
    try:
        for (item, size), colour in zip(SIZES.items(), (RED, GREEN, BLUE)):
            assert tool.session.item == item
            shown, pixel = seen(tool)
            assert shown == size and max(abs(a - b) for a, b in zip(pixel, colour)) < 12, item
            for command in 'event 0', 'phase 2', 'confirm': tool.handle(command)
    finally: tool.close()
    assert answers(phone) == {item: {'A': '2'} for item in SIZES}
    assert [finding for finding in lint(phone) if finding.level == 'error'] == []
    xml = write_cvat(read_records(phone), SCHEMA, phone).decode()
    for item, (width, height) in SIZES.items(): assert f'name="{item}" width="{width}" height="{height}"' in xml

def test_without_the_library_for_heic_everything_else_is_labeled_and_the_rest_says_what_it_needs(phone, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    tool = LabelingTool(phone, annotator='anna', pause_s=0)
    try:
        assert 'paligemma_vqa[heif]' in ' '.join(tool.store.notices) + tool.parts['message'].value
        show(tool.session, 'images/IMG_2.avif')
        tool.refresh()
        assert seen(tool)[0] == (64, 48)
        for command in 'event 0', 'phase 2', 'confirm': tool.handle(command)
    finally: tool.close()
    assert answers(phone) == {'images/IMG_2.avif': {'A': '2'}}
    found = {finding.message for finding in lint(phone)}
    assert all('pillow-heif' not in message for message in found)       # nobody has a record of it yet
