"""Whose labels these are: the command's options win, a notebook that is not ours is never run, and nobody signs for somebody else."""
import json, shlex, shutil

import nbformat
import pytest
from PIL import Image

from paligemma_vqa.labeling.widget import LabelingTool
from paligemma_vqa.schema import EventSchema
from terminal import fails, run


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path/'case 3'/'frames'
    (folder/'images').mkdir(parents=True)
    for i in range(3): Image.new('RGB', (64, 36), (60 * i, 0, 0)).save(folder/f'images/v_{i:06d}.jpg')
    EventSchema().save(folder/'schema.json')
    return folder


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path/'case 3'/'run'/'adapter'
    folder.mkdir(parents=True)
    (folder/'paligemma_vqa.json').write_text('{}')
    return folder


def label(*arguments):
    "The path that the command printed, the last line of the notebook's code, and what was told"
    done = run('label', *arguments, '--no-browser')
    assert done.returncode == 0, done.stderr
    path = done.stdout.strip()
    assert shlex.split(done.stderr.splitlines()[-1].partition(': ')[2]) == ['paligemma-vqa', 'lint', str(arguments[0])]   # what to type next
    return path, nbformat.read(path, 4).cells[-1].source.splitlines()[-1], done.stderr


def test_the_second_annotator_and_the_adapter_that_were_asked_for_count(frames, adapter):
    path, call, told = label(frames, '--annotator', 'first')
    assert call == "LabelingTool('.', annotator='first')" and "signed 'first'" in told
    again, call, told = label(frames, '--annotator', 'second', '--lora_path', adapter.parent)
    assert again == path and call == "LabelingTool('.', annotator='second', predictor='../run')" and "signed 'second'" in told
    assert str(frames.parent) not in (frames/'label.ipynb').read_text(), 'a path of this machine is in the notebook'


def test_a_moved_folder_still_finds_its_adapter(frames, adapter, tmp_path):
    label(frames, '--annotator', 'first', '--lora_path', adapter)
    shutil.move(frames.parent, tmp_path/'elsewhere')
    [call] = [line for line in nbformat.read(tmp_path/'elsewhere/frames/label.ipynb', 4).cells[-1].source.splitlines() if 'predictor' in line]
    assert (tmp_path/'elsewhere/frames'/call.split("predictor='")[1].split("'")[0]/'paligemma_vqa.json').exists()


def edited(frames):
    label(frames, '--annotator', 'first')
    notebook = nbformat.read(frames/'label.ipynb', 4)
    notebook.cells[-1].source += '\nsend_everything_away()'
    nbformat.write(notebook, frames/'label.ipynb')

def foreign(frames): nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('steal()')]), frames/'label.ipynb')
def claims(frames): nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('steal()')], metadata=dict(paligemma_vqa=dict(annotator='first', digest='0' * 12))), frames/'label.ipynb')
def no_notebook(frames): (frames/'label.ipynb').write_bytes(b'\xff\xfe\x00 notes')
def deep(frames): (frames/'label.ipynb').write_text('[' * 100_000)
def a_folder(frames): (frames/'label.ipynb').mkdir()
def loop(frames): (frames/'label.ipynb').symlink_to('label.ipynb')
def outside(frames):
    (frames.parent/'mine.ipynb').write_text('{}')
    (frames/'label.ipynb').symlink_to('../mine.ipynb')


@pytest.mark.parametrize('leave', [edited, foreign, claims, no_notebook, deep, a_folder, loop, outside])
def test_a_notebook_that_is_not_ours_is_neither_run_nor_overwritten(frames, leave):
    leave(frames)
    is_file = (frames/'label.ipynb').is_file()
    before = (frames/'label.ipynb').read_bytes() if is_file else None
    path, call, told = label(frames, '--annotator', 'second')
    assert path.endswith('label-2.ipynb') and call == "LabelingTool('.', annotator='second')"
    assert 'label.ipynb was not written by this command' in told and 'label-2.ipynb' in told
    if is_file: assert (frames/'label.ipynb').read_bytes() == before
    assert label(frames, '--annotator', 'second')[0] == path, 'its own notebook is found again'


def test_the_notebook_of_somebody_who_labels_just_now_is_left_to_them(frames):
    path, *_ = label(frames, '--annotator', 'first')
    tool = LabelingTool(frames, annotator='first')
    try:
        other, call, told = label(frames, '--annotator', 'second')
        assert other != path and "annotator='second'" in call and 'first is labeling' in told
        assert "annotator='first'" in nbformat.read(path, 4).cells[-1].source
    finally: tool.close()
    assert label(frames, '--annotator', 'third')[0] == path


def test_what_cannot_be_is_told_before_anything_is_written(frames, tmp_path, monkeypatch):
    fails('label', frames, '--no-browser', '--annotator', '../first', says=["'../first'", 'cannot name a file'])
    fails('label', frames, '--no-browser', '--annotator', 'x' * 300, says=['too long'])
    fails('label', frames, '--no-browser', '--annotator', '', says=['annotator'])
    fails('label', frames, '--no-browser', '--lora_path', tmp_path/'nowhere', says=['nowhere', 'no such'])
    fails('label', frames, '--no-browser', '--lora_path', frames, says=['no adapter'])
    def nobody(): raise OSError('No username set in the environment')
    monkeypatch.setattr('getpass.getuser', nobody)
    fails('label', frames, '--no-browser', says=['no login name', '--annotator'])
    assert not list(frames.glob('*.ipynb'))


def test_a_name_with_quotes_is_a_name(frames):
    quoted = frames.with_name("it's \"so\" <b>[x](javascript:alert(1))")
    frames.rename(quoted)
    path, call, _ = label(quoted, '--annotator', 'first')
    title = nbformat.read(path, 4).cells[0].source
    assert call == "LabelingTool('.', annotator='first')" and '<b>' not in title and '](' not in title


def test_the_tool_shows_whose_labels_these_are_and_takes_an_adapter_folder(frames, adapter, monkeypatch):
    monkeypatch.chdir(adapter)
    tool = LabelingTool(frames, annotator='dr. second', predictor='.')
    try:
        assert 'labels of <b><bdi>dr. second</bdi></b>' in tool.parts['header'].value
        assert tool.session.predictor_name == 'adapter'
    finally: tool.close()


@pytest.mark.slow
def test_files_that_are_named_like_modules_are_not_run(frames):
    "The kernel starts in the folder, where a received data set may hold anything"
    for name in ('paligemma_vqa', 'ipywidgets', 'jinja2', 'numpy', 'anywidget', 'lazy_loader'):
        (frames/f'{name}.py').write_text(f"open('ran', 'a').write('{name} ')")
    path, *_ = label(frames, '--annotator', 'first')
    from nbclient import NotebookClient
    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, timeout=300, resources=dict(metadata=dict(path=str(frames)))).execute()
    assert not (frames/'ran').exists(), (frames/'ran').read_text()
    assert any('LabelingTool' in json.dumps(output) or 'widget' in json.dumps(output) for output in notebook.cells[-1].outputs)
