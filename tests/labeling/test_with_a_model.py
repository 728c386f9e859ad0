"A folder without labels, opened with an adapter: what comes of it is written as the adapter was taught to write"
import pytest
from PIL import Image

from paligemma_vqa.dataset.records import Record, write_records
from paligemma_vqa.labeling import LabelingTool
from paligemma_vqa.model.info import AdapterInfo
from paligemma_vqa.schema import EventSchema

SCHEMA = EventSchema(events=('cut', 'clip'), phases=('begin', 'end'))


@pytest.fixture
def adapter(tmp_path):
    (tmp_path / 'run/adapter').mkdir(parents=True)
    AdapterInfo(base_model='tiny', base_fingerprint='0' * 12, schema=SCHEMA, image_size=224, soft_capping=True, question='answer en What is done?',
                answer_format='json').save(tmp_path / 'run/adapter')
    return tmp_path / 'run'


@pytest.mark.parametrize('labels', [False, True], ids=['without labels', 'with labels in another form'])
def test_new_labels_are_in_the_form_of_the_adapter_unless_there_are_others(adapter, tmp_path, labels):
    (tmp_path / 'data/images').mkdir(parents=True)
    for name in 'ab': Image.new('RGB', (32, 32)).save(tmp_path / f'data/images/{name}.png')
    SCHEMA.save(tmp_path / 'data/schema.json')
    if labels: write_records(tmp_path / 'data/labels.jsonl', [Record('images/a.png', SCHEMA.question(), SCHEMA.render({'cut': 'end'}))])
    tool = LabelingTool(tmp_path / 'data', annotator='anna', predictor=str(adapter))
    wanted = (SCHEMA.question(), SCHEMA.answer_format) if labels else ('answer en What is done?', 'json')
    asked = [tool.session.questions.get(name, name) for name in tool.store.questions]
    assert (asked, tool.store.answer_format) == ([wanted[0]], wanted[1])
    tool.close()
