"An option that would do nothing beside the others is refused, before any work; one that says something is heard"
import json, re, shlex, shutil

import pytest
from PIL import Image
from terminal import fails, run

LABEL = 'image,event,phase\nimages/{},A,2\n'


@pytest.fixture(scope='module')
def files(trained, tmp_path_factory):
    "A folder of its own with labels of other tools that speak of pictures"
    folder = tmp_path_factory.mktemp('files')
    shutil.copytree(trained / 'data', folder / 'data')
    name = next((folder / 'data/images').iterdir()).name
    (folder / 'table.csv').write_text(LABEL.format(name))
    (folder / 'coco.json').write_text(json.dumps(dict(images=[dict(id=1, file_name=f'images/{name}')], annotations=[dict(image_id=1, category_id=1)],
                                                      categories=[dict(id=1, name='A: 2')])))
    (folder / 'lines.jsonl').write_text(json.dumps(dict(image=f'images/{name}', prefix='answer en x', suffix='Based on the image, I can see no events.')) + '\n')
    (folder / 'stretches.csv').write_text('video,event,phase,start_s,end_s\nscene_000,A,2,0,1\n')
    return folder


@pytest.mark.parametrize('name', ['table.csv', 'coco.json', 'lines.jsonl'])
@pytest.mark.parametrize('option', [('--fps', '3'), ('--video', 'scene_000')], ids=['fps', 'video'])
def test_a_file_that_speaks_of_pictures_has_no_video_and_no_rate(files, name, option):
    before = (files / 'data/labels.jsonl').read_bytes()
    fails('import', files / name, files / 'data', '--replace', *option, says=[name, f'speaks of pictures, for which {option[0]} means nothing'])
    assert (files / 'data/labels.jsonl').read_bytes() == before


def test_one_that_speaks_of_stretches_of_a_video_has_both(files):
    done = run('import', files / 'stretches.csv', files / 'data', '--video', 'scene_000', '--fps', '25')
    assert done.returncode == 0, done.stderr


def test_a_gap_is_between_blocks_of_time(files):
    before = (files / 'data/splits.json').read_bytes()
    fails('split', files / 'data', '--gap', '3', says=['a gap does nothing when a data set is split by the video that each record names'])
    assert (files / 'data/splits.json').read_bytes() == before


def test_what_an_adapter_decides_cannot_be_asked_for(trained, tmp_path):
    begin = ['train', '--data', trained / 'data', '--from', trained / 'run/adapter', '--output', tmp_path / 'run']
    fails(*begin, '--mode', 'full', says=['mode is full, and lora in the adapter to go on from'])
    assert not (tmp_path / 'run').exists()
    fails('train', '--output', trained / 'run', '--resume', '--from', trained / 'run/adapter', says=['the run began from a fresh adapter, not from'])


def test_of_pictures_and_videos(trained, bikes, tmp_path):
    adapter, picture = trained / 'run/adapter', next((trained / 'data/images').iterdir())
    ask, look = ['infer', '--image_path', picture], ['video', '--lora_path', adapter, '--output', tmp_path / 'out']
    fails(*ask, '--model', 'tiny', '--prompt', 'caption en', '--data', trained / 'data', says=['--prompt asks what it says'])
    for option in (('--batch-size', '3'), ('--compile',), ('--valid-mass',), ('--save-dir', tmp_path / 'kept')):
        fails(*ask, '--model', 'tiny', '--prompt', 'caption en', *option, says=[f'for which {option[0]} means nothing'])
    fails(*look, '--video_path', bikes, '--fit-to', trained / 'data', '--method', 'raw', says=['--fit-to does nothing with --method raw'])
    fails(*look, '--source', bikes, '--on-alert', 'cat', says=['--on-alert is called for alerts, and none is asked for'])
    done = run(*ask, '--lora_path', adapter, '--valid_mass')
    assert done.returncode == 0 and 'free text would be a valid answer with probability 0.' in done.stdout


def test_what_is_printed_for_pasting_is_read_back_as_the_same_words(tmp_path):
    "Also in a folder with a blank, an apostrophe and a dollar, and in the remedies of errors"
    folder = tmp_path / "Anna's $(new) data"
    for case in 'ab':
        (folder / f'images/case {case}').mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(folder / f'images/case {case}/f_1.png')
    (folder / 'table.csv').write_text('image,event,phase\nf_1.png,A,2\n')
    doubtful = run('import', folder / 'table.csv', folder)
    assert "--inside 'images/case a'." in doubtful.stderr, doubtful.stderr
    (folder / 'checkpoint-3').mkdir()
    (folder / 'checkpoint-3/adapter_config.json').write_text('{"base_model_name_or_path": "tiny", "peft_type": "LORA"}')
    (folder / 'checkpoint-3/adapter_model.safetensors').touch()
    for words in (['evaluate', '--data', folder, '--lora_path', folder / 'checkpoint-3'], ['train', '--data', folder, '--from', folder / 'checkpoint-3', '--output', tmp_path / 'run']):
        done = run(*words)
        line = re.search(r'`(paligemma-vqa infer .*)`', done.stderr)
        assert line and shlex.split(line[1])[-1] == str(folder / 'checkpoint-3'), done.stderr
    done = run('lint', folder)
    for line in done.stdout.splitlines():
        if line.startswith('Next'): assert str(folder) in shlex.split(line.partition(': ')[2])
