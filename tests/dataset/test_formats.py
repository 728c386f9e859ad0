"""Labels from other tools, in the shapes that these tools really export"""
import json, re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from paligemma_vqa.dataset.formats.exchange import SUFFIXES
from paligemma_vqa.dataset.formats import WRITERS, export_labels, guess_format, import_labels
from paligemma_vqa.dataset.records import Record, read_records, write_records
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.labeling.store import LabelStore

SCHEMA = EventSchema(events=('bleeding', 'smoke', '出血'), phases=('early', 'late', '3'))

@pytest.fixture
def folder(tmp_path):
    root = tmp_path/'data'
    (root/'images').mkdir(parents=True)
    SCHEMA.save(root/'schema.json')
    lines = []
    for frame in range(0, 100, 10):
        Image.new('RGB', (32, 24)).save(root/f'images/case_{frame:06d}.jpg')
        lines.append(json.dumps(dict(image=f'images/case_{frame:06d}.jpg', video='case', frame_index=frame, time_s=frame / 25)))
    Image.new('RGB', (32, 24)).save(root/'images/polyp.png')
    (root/'frames.jsonl').write_text('\n'.join(lines))
    return root

def answers(imported): return {record.image.removeprefix('images/'): SCHEMA.parse(record.answer) for record in imported.records}

def save(folder, content, name='export.json'):
    path = folder.parent/name
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding='utf-8')
    return path

# Label Studio

def ls_choice(name, *choices): return {'value': {'choices': list(choices)}, 'id': 'BSUQwmhPb1', 'from_name': name, 'to_name': 'image', 'type': 'choices', 'origin': 'manual'}

def ls_task(number, image, *annotations):
    return {'id': number, 'annotations': list(annotations), 'file_upload': Path(image).name, 'drafts': [], 'predictions': [], 'data': {'image': image}, 'meta': {},
            'created_at': '2025-09-09T07:16:22.026663Z', 'updated_at': '2025-09-09T07:17:33.265355Z', 'inner_id': number, 'total_annotations': len(annotations),
            'cancelled_annotations': 0, 'total_predictions': 0, 'comment_count': 0, 'project': 3, 'updated_by': 1, 'comment_authors': []}

def ls_annotation(*results, when='2025-09-09T07:17:33.241355Z', **more):
    return {'id': 12, 'completed_by': 1, 'result': list(results), 'was_cancelled': False, 'ground_truth': False, 'created_at': when, 'updated_at': when,
            'draft_created_at': None, 'lead_time': 43.107, 'prediction': {}, 'result_count': len(results), 'unique_id': 'c3', 'task': 10, 'project': 3, **more}

def test_label_studio_export(folder):
    path = save(folder, [
        ls_task(1, '/data/upload/3/1f0a9b2c-case_000000.jpg', ls_annotation(ls_choice('bleeding', 'early'), ls_choice('出血', 'late'))),
        ls_task(2, '/data/local-files/?d=images/case_000010.jpg', ls_annotation()),
        ls_task(3, 's3://bucket/some/where/case_000020.jpg', ls_annotation(ls_choice('events', 'bleeding: late', 'smoke (3)'))),
        ls_task(4, 'https://example.org/x/case_000030.jpg?token=1', ls_annotation(ls_choice('bleeding', 'early'), was_cancelled=True)),
        ls_task(5, '/data/upload/3/1f0a9b2d-case_000040.jpg'),
        ls_task(6, '/data/upload/3/9f0a9b2d-polyp.png', ls_annotation(ls_choice('smoke', 'early'), when='2025-01-01T00:00:00Z'),
                ls_annotation(ls_choice('smoke', 'late'), when='2025-02-01T00:00:00Z')),
        ls_task(7, '/data/upload/3/00000000-nowhere.jpg', ls_annotation(ls_choice('smoke', 'late')))])
    imported = import_labels(path, folder, empty='nothing')
    assert answers(imported) == {'polyp.png': {'smoke': 'late'}, 'case_000000.jpg': {'bleeding': 'early', '出血': 'late'}, 'case_000010.jpg': {},
                                 'case_000020.jpg': {'bleeding': 'late', 'smoke': '3'}}
    assert imported.missing == ['/data/upload/3/00000000-nowhere.jpg']
    assert imported.records[0].extra['annotator'] == '1'
    assert imported.records[1].time_s == 0.0 and imported.records[1].extra['source'] == 'label-studio'
    assert read_records(folder, SCHEMA, check_images=True) == imported.records

def test_label_studio_min(folder):
    path = save(folder, [{'image': '/data/upload/3/1f0a9b2c-case_000000.jpg', 'id': 1, 'bleeding': 'late', 'smoke': {'choices': ['early']}, 'annotator': 1, 'annotation_id': 2,
                          'created_at': '2025-09-09T07:17:33Z', 'updated_at': '2025-09-09T07:17:33Z', 'lead_time': 2.2},
                         {'image': '/data/upload/3/1f0a9b2c-polyp.png', 'id': 2, 'choice': 'smoke/late', 'annotator': 1}])
    assert answers(import_labels(path, folder)) == {'case_000000.jpg': {'bleeding': 'late', 'smoke': 'early'}, 'polyp.png': {'smoke': 'late'}}

def test_label_studio_timeline(folder):
    def interval(label, *ranges): return {'value': {'ranges': [dict(start=s, end=e) for s, e in ranges], 'timelinelabels': [label]}, 'id': 'x', 'from_name': 'videoLabels',
                                          'to_name': 'video', 'type': 'timelinelabels', 'origin': 'manual'}
    task = ls_task(1, 'x', ls_annotation(interval('bleeding early', (1, 21), (71, 80)), interval('smoke late', (21, 41))))
    task['data'] = {'video': '/data/upload/3/1f0a9b2c-case.mp4'}
    found = answers(import_labels(save(folder, [task]), folder, empty='nothing'))
    assert len(found) == 10
    assert [n for n, a in found.items() if 'bleeding' in a] == ['case_000000.jpg', 'case_000010.jpg', 'case_000020.jpg', 'case_000070.jpg']
    assert [n for n, a in found.items() if 'smoke' in a] == ['case_000020.jpg', 'case_000030.jpg', 'case_000040.jpg']

# CVAT

CVAT_META = '''<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta>{outer}<id>5</id><name>case</name><size>100</size><mode>{mode}</mode><overlap>0</overlap><bugtracker></bugtracker>
<created>2025-01-01 10:00:00.134046+00:00</created><updated>2025-01-01 10:00:00.134046+00:00</updated><subset>default</subset>
<start_frame>{start}</start_frame><stop_frame>99</stop_frame><frame_filter>{filter}</frame_filter><segments><segment><id>1</id><start>0</start><stop>99</stop>
<url>http://localhost:8080/api/jobs/1</url></segment></segments><owner><username>admin</username><email></email></owner><assignee></assignee>
<labels><label><name>bleeding</name><color>#fa3253</color><type>any</type><attributes><attribute><name>phase</name><mutable>True</mutable><input_type>select</input_type>
<default_value>early</default_value><values>early\nlate\n3</values></attribute></attributes></label></labels>{source}{close}<dumped>2025-01-01 10:00:00.134046+00:00</dumped></meta>
{body}</annotations>'''

def cvat(body, mode='annotation', outer='<task>', close='</task>', start=0, filter='', source=''):
    return CVAT_META.format(body=body, mode=mode, outer=outer, close=close, start=start, filter=filter, source=source)

def test_cvat_images(folder):
    body = '''<image id="0" name="case_000000.jpg" width="32" height="24">
      <tag label="bleeding" source="manual"><attribute name="phase">late</attribute></tag><tag label="smoke: early" source="auto"></tag></image>
    <image id="1" name="sub/dir/case_000010.jpg" width="32" height="24"></image>
    <image id="2" name="polyp.png" width="32" height="24"><box label="出血" source="manual" occluded="0" xtl="1" ytl="2" xbr="3" ybr="4" z_order="0">
      <attribute name="sure">yes</attribute><attribute name="stage">3</attribute></box></image>'''
    path = save(folder, cvat(body, outer='<project><tasks><task>', close='</task></tasks></project>'), 'annotations.xml')
    assert answers(import_labels(path, folder, empty='nothing')) == {'polyp.png': {'出血': '3'}, 'case_000000.jpg': {'bleeding': 'late', 'smoke': 'early'}, 'case_000010.jpg': {}}
    assert len(import_labels(path, folder, write=False).records) == 2

def test_cvat_video(folder):
    def box(frame, phase, outside=0, keyframe=1): return (f'<box frame="{frame}" keyframe="{keyframe}" outside="{outside}" occluded="0" xtl="1.00" ytl="2.00" xbr="9.00" '
                                                         f'ybr="8.00" z_order="0"><attribute name="phase">{phase}</attribute></box>')
    body = (f'<track id="0" label="bleeding" source="manual">{box(0, "early")}{box(1, "early", keyframe=0)}{box(10, "late")}{box(30, "late", 1)}{box(60, "3")}{box(61, "3", 1)}</track>'
            f'<track id="1" label="smoke" source="manual">{box(45, "early")}</track>')
    path = save(folder, cvat(body, 'interpolation', source='<source>case.mp4</source>'), 'annotations.xml')
    found = answers(import_labels(path, folder, empty='nothing'))
    assert [found[f'case_{frame:06d}.jpg'].get('bleeding') for frame in range(0, 100, 10)] == ['early', 'late', 'late', None, None, None, '3', None, None, None]
    assert [found[f'case_{frame:06d}.jpg'].get('smoke') for frame in range(0, 100, 10)] == [None] * 5 + ['early'] * 5

def test_cvat_video_of_every_tenth_frame(folder):
    body = '<track id="0" label="bleeding: late"><box frame="1" outside="0"/><box frame="3" outside="1"/></track>'   # frame 1 of the task is frame 30 of the video
    path = save(folder, cvat(body, 'interpolation', start=20, filter='step=10', source='<source>case.mp4</source>'), 'annotations.xml')
    assert [name for name, annotation in answers(import_labels(path, folder)).items() if annotation] == ['case_000030.jpg', 'case_000040.jpg']
    with pytest.raises(VQAError, match="no frames of the video 'other'"): import_labels(path, folder, video='other')

# COCO and tables

def test_coco(folder):
    path = save(folder, {'licenses': [{'name': '', 'id': 0, 'url': ''}], 'info': {'contributor': '', 'date_created': '', 'description': ''},
        'categories': [{'id': 1, 'name': 'bleeding', 'supercategory': ''}, {'id': 2, 'name': 'late', 'supercategory': 'smoke'}, {'id': 7, 'name': '出血: 3', 'supercategory': ''}],
        'images': [{'id': 1, 'width': 32, 'height': 24, 'file_name': 'case_000000.jpg', 'license': 0, 'flickr_url': '', 'coco_url': '', 'date_captured': 0},
                   {'id': 9, 'width': 32, 'height': 24, 'file_name': 'polyp.png'}],
        'annotations': [{'id': 1, 'image_id': 1, 'category_id': 1, 'segmentation': [], 'area': 12.0, 'bbox': [1, 2, 3, 4], 'iscrowd': 0, 'attributes': {'occluded': False, 'phase': 'early'}},
                        {'id': 2, 'image_id': 1, 'category_id': 2}, {'id': 3, 'image_id': 1, 'category_id': 7}]})
    assert guess_format(path) == 'coco'
    assert answers(import_labels(path, folder, empty='nothing')) == {'case_000000.jpg': {'bleeding': 'early', 'smoke': 'late', '出血': '3'}, 'polyp.png': {}}

@pytest.mark.parametrize('text', [
    'image,bleeding,smoke\npolyp.png,early,\ncase_000010.jpg,,late\n',
    '\ufeffimage;Bleeding;Smoke;Comment\r\npolyp.png;early;;"a;b"\r\ncase_000010.jpg;;late;\r\n',
    'image\tevent\tphase\npolyp.png\tbleeding\tearly\ncase_000010.jpg\tsmoke\tlate\n',
    'image,answer\npolyp.png,bleeding: early\ncase_000010.jpg,"Based on the image, I can see smoke in the late phase, and no other events are visible."\n'])
def test_tables(folder, text):
    assert answers(import_labels(save(folder, text, 'labels.csv'), folder)) == {'polyp.png': {'bleeding': 'early'}, 'case_000010.jpg': {'smoke': 'late'}}

def test_intervals(folder):
    path = save(folder, 'video,event,phase,start_s,end_s\ncase.mp4,bleeding,early,0.4,1.2\ncase.mp4,bleeding,late,1.2,2\n', 'boris.csv')
    found = answers(import_labels(path, folder, empty='nothing'))
    assert [found[f'case_{frame:06d}.jpg'].get('bleeding') for frame in range(0, 100, 10)] == [None, 'early', 'early', 'late', 'late', None, None, None, None, None]

@pytest.mark.parametrize('name, content, complaint', [
    ('x.json', '{', 'not JSON'), ('x.json', '[]', 'there are no labels'), ('x.json', '{"images": []}', 'not COCO-style'), ('x.json', '[1]', 'a task is not an object'),
    ('x.xml', '<annotations>', 'not XML'), ('x.xml', '<html/>', 'begins with <html>'), ('x.csv', 'a,b\n1,2\n', 'no header that can be understood; the first line is a, b'), ('x.csv', 'image,bleeding\n,early\n', 'x.csv:2'),
    ('x.csv', 'image,event,phase\npolyp.png,bleeding,early\npolyp.png,bleeding,late\n', 'in two phases'), ('x.csv', 'image,bleeding\nnobody.png,early\n', "the only picture, 'nobody.png', is not in"),
    ('x.csv', 'video,event,phase,start_s,end_s\ncase,bleeding,early,zero,1\n', 'not a number'), ('x.what', 'hello', 'cannot be told'), ('x.csv', 'image,bleeding\npolyp.png,sometimes\n', "phase 'sometimes'")])
def test_what_cannot_be_read_is_said(folder, name, content, complaint):
    with pytest.raises(VQAError, match=complaint): import_labels(save(folder, content, name), folder)
    assert not (folder/'labels.jsonl').exists()

# Out and in again

@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.dictionaries(st.sampled_from(SCHEMA.events), st.sampled_from(SCHEMA.phases)), min_size=10, max_size=10), st.sampled_from(sorted(WRITERS)))
def test_round_trip(folder, annotations, format):
    records = [Record(f'images/case_{frame * 10:06d}.jpg', SCHEMA.question(), SCHEMA.render(annotation), dict(annotator='anna', source='human', time_s=frame * 10 / 25))
               for frame, annotation in enumerate(annotations)]
    write_records(folder, records)
    suffix = {name: suffix for suffix, name in SUFFIXES.items()}.get(format, '.xml' if 'cvat' in format else '.csv' if format in ('imagefolder', 'intervals') else '.json')
    notes = []
    path = export_labels(folder, folder.parent/f'out{suffix}', format, tell=notes.append)
    says_nothing = any('cannot say' in note for note in notes)
    assert says_nothing == (format in ('cvat', 'cvat-video', 'coco', 'intervals', 'elan', 'boris') and not all(annotations))
    try: imported = import_labels(path, folder, write=False, empty='nothing' if says_nothing else 'skip')
    except VQAError: assert not any(annotations) and format in ('cvat-video', 'intervals', 'elan', 'boris')   # a video without intervals says nothing
    else: assert [SCHEMA.parse(record.answer) for record in imported.records] == annotations

def test_imported_labels_open_in_the_store(folder):
    import_labels(save(folder, 'image,bleeding\npolyp.png,early\ncase_000010.jpg,late\n', 'labels.csv'), folder)
    with LabelStore(folder, 'anna') as store:
        assert store.annotation('images/polyp.png') == {'bleeding': 'early'} and store.status('images/polyp.png') == 'done'
        assert store.annotation('images/case_000020.jpg') == {} and store.counts()['done'] == 2   # a line speaks of its picture alone
        assert store.done_by('anna') == []   # nobody here judged them
    import_labels(save(folder, 'image,bleeding\npolyp.png,late\n', 'labels.csv'), folder, existing='replace')
    with LabelStore(folder, 'anna') as store: assert store.annotation('images/polyp.png') == {'bleeding': 'late'}


@pytest.mark.parametrize('name', ['out.eaf', 'out.boris'])
def test_the_link_to_the_video_resolves_from_where_the_file_lies(folder, name, monkeypatch):
    video = folder.parent/'videos/case.mp4'
    video.parent.mkdir()
    video.write_bytes(b'')
    lines = [json.loads(line) for line in (folder/'frames.jsonl').read_text().splitlines()]
    (folder/'frames.jsonl').write_text('\n'.join(json.dumps(line | dict(video_file='../videos/case.mp4')) for line in lines))
    import_labels(save(folder, 'video,event,phase,start_s,end_s\ncase,bleeding,early,0.4,1.2\n', 'x.csv'), folder)
    monkeypatch.chdir(folder.parent.parent)   # from elsewhere
    (folder.parent/'a/b').mkdir(parents=True)
    path = export_labels(folder, folder.parent/'a/b'/name)
    if name.endswith('eaf'): [link] = re.findall(r'RELATIVE_MEDIA_URL="(.*?)"', path.read_text())
    else: [[link]] = [files for files in json.loads(path.read_text())['observations']['case']['file'].values() if files]
    assert (path.parent/link).resolve() == video.resolve() and not Path(link).is_absolute()
    assert answers(import_labels(path, folder, write=False)) == answers(import_labels(save(folder, 'video,event,phase,start_s,end_s\ncase,bleeding,early,0.4,1.2\n', 'x.csv'), folder, write=False))
