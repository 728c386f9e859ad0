"What an import tells to type is typed, letter by letter, until the labels are there: no remedy leads astray, and none makes up a negative"
import json, re, shlex

import pytest
from PIL import Image
from terminal import run

from paligemma_vqa.dataset.records import load_schema, read_records
from paligemma_vqa.schema import EventSchema

ASKS = EventSchema().question()
def line(**row): return json.dumps(row)

CASES = {   # file, what is in it, and what its pictures show at the end
    'detect.jsonl': (line(image='/home/ann/op_000000.jpg', prefix='detect A', suffix='<loc0100><loc0200><loc0300><loc0400> A'), [{'A': '1'}]),
    'yes.jsonl': (line(image='op_000000.jpg', question='is A there?', answer='yes'), [{'A': '1'}]),
    'labels.csv': ('image,label\nop_000000.jpg,Blutung\nop_000025.jpg,"it\'s a ""clip"""\n', [{'A': '1'}, {'A': '1'}]),
    'one hot.csv': ('image,A,B\nop_000000.jpg,1,0\nop_000025.jpg,0,1\n', [{'A': '1'}, {'B': '1'}]),
    'severity.csv': ('image,A,severity\nop_000000.jpg,2,high\n', [{'A': '2'}]),
    'words.csv': ('image,A\nop_000000.jpg,early\nop_000025.jpg,late\n', [{'A': '1'}, {'A': '1'}]),
    'op-phase.txt': ('Frame\tPhase\n0\tPreparation\n25\tCalot\n', [{'A': '1'}, {'A': '1'}]),
    'empty.jsonl': (line(image='op_000000.jpg', question=ASKS, answer=''), [{}]),
    'boxes.json': (json.dumps(dict(images=[dict(id=1, file_name='op_000000.jpg')], categories=[dict(id=1, name='blood')],
                                   annotations=[dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 1, 1])])), [{'A': '1'}]),
    'other name.csv': ('video,event,phase,start_s,end_s\nfoo.mp4,A,1,0,3\n', [{'A': '1'}, {'A': '1'}])}


def typed(said:str, folder, options:list[str]) -> list[str]:
    "The options with what the message says to add"
    if found := re.search(r'--map map\.json, where map\.json holds (\{.*?\})(?=[ :;.])', said):
        path = folder / 'map.json'
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | json.loads(found[1])))
        return options if '--map' in options else [*options, '--map', str(path)]
    found = re.search(r'--empty nothing|--fps 25|--video NAME', said)
    assert found, said
    return [*options, *shlex.split(found[0].replace('NAME', 'op'))]


@pytest.mark.parametrize('name', CASES)
def test_followed_to_the_end(name, tmp_path):
    text, expected = CASES[name]
    data = tmp_path / 'data'
    (data / 'images').mkdir(parents=True)
    for frame in (0, 25): Image.new('RGB', (8, 8)).save(data / f'images/op_{frame:06d}.jpg')
    (data / 'frames.jsonl').write_text('\n'.join(line(image=f'images/op_{frame:06d}.jpg', video='op', frame_index=frame, time_s=frame / 25) for frame in (0, 25)))
    (tmp_path / name).write_text(text)
    options, steps = [], []
    while (done := run('import', tmp_path / name, data, *options)).returncode:
        assert done.returncode == 2 and done.stderr not in steps and not (data / 'labels.jsonl').exists()
        steps.append(done.stderr)
        options = typed(done.stderr, tmp_path, options)
    assert steps   # none of them is understood at once
    schema = load_schema(data)
    assert [schema.parse(record.answer) for record in read_records(data)] == expected
