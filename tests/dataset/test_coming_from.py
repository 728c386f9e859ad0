"""Every row of the README's table "Coming from …" brings in a file as its tool really writes it"""
import json, re, shlex, shutil
from pathlib import Path

import pytest

from paligemma_vqa.command.cli import run
from paligemma_vqa.dataset.records import load_schema, read_records
from paligemma_vqa.schema import EventSchema

ROOT, CASES = Path(__file__).resolve().parents[2], Path(__file__).parent / 'cases'
SENTENCE = EventSchema().render({'E': '3'})
OPERATION, SCENE = EventSchema(events=('clipping', 'bleeding'), phases=('begin', 'end', 'present')), EventSchema()


def rows() -> dict[str, str]:
    "What somebody comes from, and the command that the table gives for it"
    part = (ROOT / 'README.md').read_text(encoding='utf-8').partition('## Coming from')[2].partition('\n## ')[0]
    return {cells[1].strip(): re.search(r'`(paligemma-vqa import .*?)`', cells[3])[1]
            for cells in (line.split('|') for line in part.splitlines()) if len(cells) > 4 and 'import' in cells[3]}


def metadata_lines(path): path.write_text(json.dumps(dict(file_name='a_000030.jpg', text=SENTENCE)) + '\n')
def metadata_table(path): path.write_text(f'file_name,text\na_000030.jpg,"{SENTENCE}"\n')

def metadata_parquet(path):
    from datasets import Dataset
    Dataset.from_dict(dict(file_name=['a_000030.jpg'], text=[SENTENCE])).to_parquet(path)

def segments(path):   # as `video` writes it
    path.write_text(json.dumps(dict(video='op1.mp4', segments=[dict(event='clipping', phase='begin', start_s=13.0, end_s=14.8, confidence=0.9, video='op1')])))


BOTH = {'scene_000_000000': {'A': '2', 'B': '3'}, 'scene_000_000010': {'C': '1'}}
ONE = {'a_000030': {'E': '3'}}
CLIP = {f'op1_{frame:06d}': {'clipping': 'begin'} for frame in (325, 350)}
TIERS = {f'op1_{frame:06d}': {'A': '1'} for frame in (25, 50)} | {'op1_000075': {'A': '2', 'B': '3'}}
HANDS = {f'op1_{frame:06d}': {'A': '1'} for frame in (25, 50, 75)} | {'op1_000150': {'B': '3'}}   # one hand from 1 to 3 s, the other from 2 to 4 s
# What somebody comes from: the files (a case, or what writes one), and what they say (of the pictures that it is checked on)
FILES = {
    'Label Studio': [(f'label_studio/{project}.{kind}', BOTH) for project in ('taxonomy', 'multi_events', 'boxes') for kind in ('json', 'min.json', 'csv')],
    'CVAT': [('cvat_datumaro.xml', BOTH), ('cvat_tracks.xml', TIERS)],
    'COCO tools': [('coco_datumaro.json', BOTH)],
    'Excel, CSV': [('table_semicolon_bom.csv', {'a_000030': {'A': '2'}, 'a_000040': {'B': '1'}})],
    'PaliGemma, TRL, ms-swift, LLaMA-Factory, LLaVA': [('roboflow_paligemma.jsonl', ONE), ('messages_images.jsonl', ONE), ('sharegpt.json', ONE)],
    'an imagefolder': [(metadata_lines, ONE), (metadata_table, ONE), (metadata_parquet, ONE)],
    'a text file a video, as of Cholec80': [('phase_per_frame.txt', {'op1_000050': {'operation': 'Dissection'}})],
    'intervals': [('intervals.csv', {'op1_000325': {'clipping': 'begin'}}), (segments, CLIP)],
    'ELAN, BORIS': [('elan_pympi.eaf', TIERS), ('boris_9.boris', TIERS), ('boris_9_tabular.tsv', TIERS),
                    ('boris_8_27.boris', HANDS), ('boris_8_27_tabular.tsv', HANDS), ('boris_8_27_aggregated.tsv', HANDS)],
}
SUFFIX = {metadata_lines: '.jsonl', metadata_table: '.csv', metadata_parquet: '.parquet', segments: '.json'}
EXACT = {'phase_per_frame.txt', 'intervals.csv'}   # which say more than is checked here


def test_each_row_has_files_and_each_file_a_row(): assert set(rows()) == set(FILES)


@pytest.mark.parametrize('origin, file, expected', [(origin, file, expected) for origin, files in FILES.items() for file, expected in files],
                         ids=lambda value: getattr(value, '__name__', value) if not isinstance(value, dict) else '')
def test_it_comes_in(folder, origin, file, expected, capsys):
    _, _, name, _, *options = shlex.split(rows()[origin])
    path = folder.parent / (Path(file).name if isinstance(file, str) else f'{Path(name).stem}{SUFFIX[file]}')
    if isinstance(file, str): shutil.copy(CASES / file, path)
    else: file(path)
    if file is segments: OPERATION.save(folder / 'schema.json')
    if file == 'phase_per_frame.txt': options += ['--video', 'op1']   # the row's file has the name of its video
    assert run(['import', str(path), str(folder), *options]) == 0, capsys.readouterr().err
    schema = load_schema(folder)
    said = {Path(record.image).stem: schema.parse(record.answer) for record in read_records(folder)}
    assert {name: said.get(name) for name in expected} == expected
    if file not in EXACT: assert set(said) == set(expected)
