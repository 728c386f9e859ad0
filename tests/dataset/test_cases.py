"""Lines of labels.jsonl that once broke a command late, or were believed: each is read as it is meant, or refused with its line"""
import shutil
from pathlib import Path

import pytest
from PIL import Image

from paligemma_vqa.dataset.lint import lint
from paligemma_vqa.dataset.loading import load_dataset
from paligemma_vqa.dataset.records import load_schema, read_records
from paligemma_vqa.model.task import survey_task
from paligemma_vqa.schema import EventSchema, VQAError

CASES, SCHEMA = Path(__file__).with_name('cases'), EventSchema()
REFUSED = {'nan_time': ('NaN', 'finite'), 'half_character': ('half a character',), 'int_too_big': ('1180591620717411303424', 'beyond 64 bits'),
           'html_index': ('frame_index', 'whole number')}


@pytest.fixture
def received(tmp_path):
    "Makes a folder with one of the files as its labels.jsonl"
    def make(name):
        (tmp_path/'images').mkdir()
        for frame in range(0, 90, 10): Image.new('RGB', (32, 24), (2 * frame, 0, 99)).save(tmp_path/f'images/a_{frame:06d}.jpg')
        shutil.copy(CASES/f'{name}.jsonl', tmp_path/'labels.jsonl')
        return tmp_path
    return make


@pytest.mark.parametrize('name', REFUSED)
def test_what_no_table_can_keep_is_refused_with_its_line(received, name):
    "By lint, by reading, and by what training reads with: no one of them goes on with a part"
    folder = received(name)
    found, = [finding for finding in lint(folder) if finding.level == 'error']
    assert found.line == 1 and all(text in f'{found.message} {found.remedy}' for text in REFUSED[name])
    for read in read_records, load_dataset:
        with pytest.raises(VQAError) as error: read(folder)
        assert f'labels.jsonl:1: {found.message}' in str(error.value)


def test_63_0_is_63(received):
    folder = received('float_index')
    assert lint(folder) == [finding for finding in lint(folder) if finding.level != 'error']
    record, = read_records(folder)
    assert (record.frame_index, type(record.frame_index), record.time_s) == (63, int, 3)


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('name, question, answer_format, remark', [
    ('list_format', SCHEMA.question(), 'list', None),
    ('one_odd_question', SCHEMA.question(), 'sentence', "2 questions are asked")])
def test_the_task_is_that_of_most_lines(received, name, question, answer_format, remark):
    folder = received(name)
    rows = [row for side in load_dataset(folder).values() for row in side]
    survey = survey_task([(row['question'], row['answer']) for row in rows], load_schema(folder))
    assert (survey.task.question, survey.task.answer_format) == (question, answer_format)
    assert survey.task.render(survey.task.parse(rows[0]['answer'])) == rows[0]['answer']
    assert (not survey.remarks) if remark is None else remark in survey.remarks[0]


def test_every_file_that_was_received_is_in_a_test():
    tests = '\n'.join(path.read_text(encoding='utf-8') for path in Path(__file__).parents[1].rglob('test_*.py'))
    for path in (path for folder in (CASES, CASES.parents[1]/'labeling/cases') for path in folder.iterdir() if path.is_file()):
        assert path.name in tests or f"'{path.stem}'" in tests, f'{path.name} is in no test'
    projects = {path.name.partition('.')[0] for path in (CASES/'label_studio').iterdir()}
    assert all(f"'{project}'" in tests for project in projects), projects
