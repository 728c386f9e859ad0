"""An input that is not understood is never a negative label"""
import json
from pathlib import Path

import pytest

from paligemma_vqa.command.cli import run
from paligemma_vqa.dataset.formats import import_labels
from paligemma_vqa.dataset.lint import lint
from paligemma_vqa.dataset.records import read_records
from paligemma_vqa.schema import EventSchema, VQAError

CASES = Path(__file__).parent/'cases'
SCHEMA = EventSchema()

def save(folder, content, name='x.csv', encoding='utf-8'):
    path = folder.parent/name
    path.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode(encoding))
    return path

def said(imported, schema=SCHEMA): return {record.image.removeprefix('images/')[:-4]: schema.parse(record.answer) for record in imported.records}

# Label Studio

@pytest.mark.parametrize('kind', ['json', 'min.json', 'csv'])
@pytest.mark.parametrize('project', ['taxonomy', 'multi_events', 'prefixed', 'boxes'])
def test_every_export_of_every_layout_of_label_studio_says_the_same(folder, project, kind):
    path = CASES/'label_studio'/f'{project}.{kind}'
    seen = {'scene_000_000000': {'A': '2', 'B': '3'}, 'scene_000_000010': {'C': '1'}}
    imported = import_labels(path, folder, write=False)
    assert said(imported) == seen and imported.empty == ['images/scene_000_000020.jpg'] and not imported.problems
    assert said(import_labels(path, folder, empty='nothing')) == seen | {'scene_000_000020': {}}

@pytest.mark.parametrize('kind', ['json', 'min.json', 'csv'])
def test_one_person_who_answered_twice_means_the_later_answer_in_every_export(folder, kind):
    imported = import_labels(CASES/'label_studio'/f'two.{kind}', folder)
    assert said(imported) == {'scene_000_000000': {'A': '3'}} and 'was answered 2 times by 1' in imported.notes[0]

@pytest.mark.parametrize('kind', ['json', 'min.json', 'csv'])
def test_two_annotators_of_one_task_are_kept_apart(folder, kind):
    text = (CASES/'label_studio'/f'two.{kind}').read_text()
    if kind == 'json': text = text.replace('"completed_by":1', '"completed_by":{"id":7,"email":"anna@example.org"}', 1)
    elif kind == 'csv': text = text.replace('33,"1"', '33,"anna@example.org"')
    else: text = '"annotator": "anna@example.org"'.join(text.rsplit('"annotator": 1', 1))
    imported = import_labels(save(folder, text, f'two.{kind}'), folder)
    assert {record.extra['annotator']: SCHEMA.parse(record.answer)['A'] for record in read_records(folder)} == {'anna@example.org': '2', '1': '3'}
    assert imported.disagreements == ['images/scene_000_000000.jpg']
    assert any(finding.code == 'conflict' for finding in lint(folder, visual=False))

def test_null_numbers_and_mixed_dates_of_label_studio_do_not_take_the_other_tasks_along(folder):
    def task(frame, *annotations): return dict(id=frame, data=dict(image=f'scene_000_{frame:06d}.jpg'), annotations=list(annotations))
    fine = dict(result=[dict(from_name='A', type='choices', value=dict(choices=['2']))], created_at=17, updated_at='2026-01-01')
    broken = [None, 3, dict(data=None, annotations=None), task(0, None), task(0, dict(result=7)), task(0, dict(result=[None])), task(0, dict(result=[dict(value=3)])),
              dict(data=dict(image=None), annotations=[fine]), dict(data=dict(image='http://[::1/x.jpg'), annotations=[fine]), task(10, fine), task(20, dict(fine, completed_by=[1], updated_at={}))]
    imported = import_labels(save(folder, broken, 'x.json'), folder)
    assert said(imported) == {'scene_000_000010': {'A': '2'}, 'scene_000_000020': {'A': '2'}}
    assert imported.missing == ['http://[::1/x.jpg'] and len(imported.problems) >= 6

# Tables

@pytest.mark.parametrize('text, complaint', [
    ('image,label\na_000030.jpg,smoke\n', "the label 'smoke' is not in the schema"), ('image,label,phase\na_000030.jpg,A,often\n', "'A' with phase 'often'"),
    ('image,Label\na_000030.jpg,A\n', "'A' comes without a phase"), ('image,A,smoke\na_000030.jpg,1,1\n', 'the column smoke of image, A, smoke cannot be understood'),
    ('image,A,B\na_000030.jpg,1,0\n', 'hold 0 and 1: that the event is there, or that it is in phase 1'), ('image,something\na_000030.jpg,1\n', 'the column something'),
    ('image,A,a\na_000030.jpg,1,\n', "the column 'A' is there 2 times"), ('image,A\na_000030.jpg,?\n', "'A' with phase '?'"), ('image,answer\na_000030.jpg,perhaps\n', "'perhaps' is not in the schema"),
    ('image,A\na_000030.jpg,\n', 'the only picture has no label. If it was looked at and shows no event, say so: --empty nothing'),
    ('image,answer\na_000030.jpg,\n', '--empty nothing'), ('image,event,phase\na_000030.jpg,,\n', '--empty nothing'), ('picture_number,A\n1,1\n', 'no header that can be understood; the first line is picture_number, A'),
    ('event,phase,start,end\nA,1,5,2\n', 'x.csv:2: the interval ends at 2, before it begins at 5'), ('event,phase,start,end\nA,1,900,901\n', '1 of 1 interval begins after the last picture of'),
    ('event,phase,start,end\nA,1,1,3\nA,2,1.5,3\n', "event 'A' in two phases"), ('video,event,phase,start,end\nother.mp4,A,1,1,2\n', "no frames of the video 'other.mp4'"),
    ('Frame\tA\n0\t9\n', "'A' with phase '9'"), ('Frame\tHook\n0\t1\n', 'the column Hook'), ('image,A\na_000030.jpg,1\na_000030.jpg,2\n', 'two answers')])
def test_a_table_that_is_not_understood_is_refused_and_nothing_is_written(folder, text, complaint):
    with pytest.raises(VQAError) as error: import_labels(save(folder, text), folder, video='op1' if 'start,' in text and 'video' not in text or 'Frame' in text else None)
    assert complaint in str(error.value) and not (folder/'labels.jsonl').exists()

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'gbk', 'cp1252'])
@pytest.mark.parametrize('text', ['image,A,B\na_000030.jpg,2,\na_000040.jpg,none,1\n', 'sep=;\r\nIMAGE;Event;PHASE;Time\r\na_000030.jpg;A;2.0;00:00:03,5\r\na_000040.jpg;b;1;4,0\r\n',
                                  'file_name\tanswer\na_000030.jpg\tA: 2\na_000040.jpg\tB in the 1 phase\n', 'image,A: 2,B: 1\na_000030.jpg,1,0\na_000040.jpg,0,1\n'])
def test_tables_from_every_spreadsheet(folder, text, encoding):
    assert said(import_labels(save(folder, text, encoding=encoding), folder)) == {'a_000030': {'A': '2'}, 'a_000040': {'B': '1'}}

def test_explicit_nothing_is_an_answer(folder):
    imported = import_labels(save(folder, 'image,A,B\na_000030.jpg,none,\na_000040.jpg,,\n'), folder)
    assert said(imported) == {'a_000030': {}} and imported.empty == ['images/a_000040.jpg']

def test_rows_that_slipped_are_told_and_the_rest_goes_on(folder):
    imported = import_labels(save(folder, 'image,event,phase\na_000030.jpg,A,2\na_000040.jpg,A,x,3\nscene_000_000000.jpg\n'), folder)
    assert said(imported) == {'a_000030': {'A': '2'}} and [error.line for error in imported.problems] == [3, 4]

def test_real_tables(folder):
    assert said(import_labels(CASES/'table_semicolon_bom.csv', folder)) == {'a_000030': {'A': '2'}, 'a_000040': {'B': '1'}}
    assert [record.time_s for record in read_records(folder)] == [3.0, 4.0]
    (folder/'labels.jsonl').unlink()
    chinese = EventSchema.preset('zh', events=('夹闭', '出血'), phases=('开始', '结束'))
    assert said(import_labels(CASES/'table_gbk.csv', folder, schema=chinese), chinese) == {'a_000030': {'夹闭': '开始'}, 'a_000040': {'出血': '结束'}}

def test_formulas_are_text_on_the_way_out_and_names_on_the_way_in(folder, tmp_path):
    from paligemma_vqa.dataset.formats import export_labels
    from paligemma_vqa.dataset.records import Record, write_records
    schema = EventSchema(events=('=1+1', '@x'), phases=('+a', '-b'))
    schema.save(folder/'schema.json')
    before = [Record('images/a_000030.jpg', schema.question(), schema.render({'=1+1': '-b'}), dict(annotator="'=anna")), Record('images/a_000040.jpg', schema.question(), schema.render({'@x': '+a'}))]
    write_records(folder, before)
    path = export_labels(folder, tmp_path/'out.csv')
    assert not [cell for line in path.read_text('utf-8-sig').splitlines() for cell in line.split(',') if cell[:1] in tuple('=+-@')]
    assert [(r.answer, r.extra.get('annotator')) for r in import_labels(path, folder, write=False).records] == [(r.answer, r.extra.get('annotator')) for r in before]

# Other tools

@pytest.mark.parametrize('name', ['roboflow_paligemma.jsonl', 'messages_images.jsonl', 'sharegpt.json'])
def test_what_other_trainers_read(folder, name): assert said(import_labels(CASES/name, folder)) == {'a_000030': {'E': '3'}}

def test_phases_of_an_operation_and_instruments(folder):
    imported = import_labels(CASES/'phase_per_frame.txt', folder, video='op1', fps=25, accept_schema=True)
    schema = EventSchema.load(folder/'schema.json')
    assert schema.events == ('operation',) and said(imported, schema)['op1_000050'] == {'operation': 'Dissection'}
    (folder/'labels.jsonl').unlink()
    tools = EventSchema(events=('Grasper', 'Hook', 'Clipper'), phases=('present',))
    imported = import_labels(CASES/'tool_presence.txt', folder, video='op1', fps=25, schema=tools, write=False)
    assert len(imported.records) == 8 and said(imported, tools)['op1_000150'] == dict.fromkeys(tools.events, 'present')

def test_intervals_of_a_video(folder):
    schema = EventSchema(events=('clipping', 'bleeding'), phases=('begin', 'end'))
    with pytest.raises(VQAError, match="intervals.csv:4: 'bleeding' comes without a phase"): import_labels(CASES/'intervals.csv', folder, schema=schema)
    found = said(import_labels(CASES/'intervals.csv', folder, schema=schema, mapping={'bleeding': ('bleeding', 'begin')}), schema)
    assert found == {'op1_000325': {'clipping': 'begin'}, 'op1_000350': {'clipping': 'begin', 'bleeding': 'begin'}, 'op1_000375': {'clipping': 'end', 'bleeding': 'begin'},
                     'op1_000400': {'clipping': 'end', 'bleeding': 'begin'}, 'op1_000425': {'clipping': 'end'}}

def test_a_track_of_cvat_that_cannot_be_read_leaves_its_video_out(folder):
    xml = ('<annotations><meta><source>op1.mp4</source></meta><track id="0" label="A: 1"><box frame="x"/></track>'
           '<track id="1" label="B: 1"><box frame="25"/><box frame="50" outside="1"/></track></annotations>')
    with pytest.raises(VQAError, match="track 0 cannot be read"): import_labels(save(folder, xml, 'x.xml'), folder, empty='nothing')   # B and nothing else, it would say

def test_tags_and_boxes_of_one_set_in_two_files(folder):
    def coco(*annotations): return dict(images=[dict(id=n, file_name=f'a_0000{n}.jpg') for n in (30, 40)], categories=[dict(id=1, name='A: 1'), dict(id=2, name='B: 2')],
                                        annotations=[dict(image_id=image, category_id=category) for image, category in annotations])
    tags, boxes = save(folder, coco((30, 1), (40, 1)), 'tags.json'), save(folder, coco((30, 2)), 'boxes.json')
    import_labels(tags, folder)
    imported = import_labels(boxes, folder)
    assert imported.kept == ['images/a_000030.jpg'] and said(import_labels(tags, folder, write=False)) == {'a_000030': {'A': '1'}, 'a_000040': {'A': '1'}}
    import_labels(boxes, folder, existing='join')
    assert {r.image: SCHEMA.parse(r.answer) for r in read_records(folder)} == {'images/a_000030.jpg': {'A': '1', 'B': '2'}, 'images/a_000040.jpg': {'A': '1'}}

# The command

def test_labels_that_are_there_are_told_and_kept_or_replaced_with_a_backup(folder, capsys):
    path = save(folder, 'image,A\na_000030.jpg,1\n')
    assert run(['import', str(path), str(folder)]) == 0
    before = (folder/'labels.jsonl').read_bytes()
    path.write_text('image,A\na_000030.jpg,2\n')
    assert run(['import', str(path), str(folder)]) == 0 and (folder/'labels.jsonl').read_bytes() == before
    assert 'was labeled otherwise and stays so: add --replace' in capsys.readouterr().err
    assert run(['import', str(path), str(folder), '--replace']) == 0 and (folder/'labels.jsonl').read_bytes() != before
    backup, = folder.glob('labels.jsonl.*.bak')
    assert backup.read_bytes() == before

@pytest.mark.parametrize('content', ['[]', '{"blood": "nothing known"}', '{"blood": ["A"]}', '{"blood": ["A", "9"]}', '{"blood": 3}', '{"a"', '{"blood": {"A": "1"}}'])
def test_a_wrong_mapping_file_is_one_line(folder, content, capsys):
    assert run(['import', str(save(folder, 'image,event,phase\na_000030.jpg,blood,\n')), str(folder), '--map', str(save(folder, content, 'map.json'))]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('Error: ') and not (folder/'labels.jsonl').exists()

def test_the_remedy_can_be_followed_as_it_is_printed(folder, capsys):
    path = save(folder, 'image,event,phase\na_000030.jpg,blood,\na_000040.jpg,none,\n')
    assert run(['import', str(path), str(folder)]) == 2
    remedy = capsys.readouterr().err
    mapping = save(folder, remedy.partition('map.json holds ')[2].partition('}')[0] + '}', 'map.json')
    assert run(['import', str(path), str(folder), '--map', str(mapping)]) == 0
    assert [SCHEMA.parse(record.answer) for record in read_records(folder)] == [{'A': '1'}, {}]

def test_help_shows_the_mapping(capsys):
    run(['import', '--help'])
    assert '["A", "2"]' in ' '.join(capsys.readouterr().out.replace('│', ' ').split())
