"Several videos at once: what cannot be meant is refused before anything is loaded"
import pytest
from terminal import fails

from paligemma_vqa.scenes.videos import make_video, plan_scene


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("Anna's videos")
    for name in ('first', 'second', 'third'): make_video(folder / f'{name}.mp4', plan_scene(len(name), duration_s=2), 64)
    return folder


def test_what_ray_cannot_do_is_refused_before_anything_is_loaded(videos, tmp_path):
    common = ['video', '--model', 'tiny', '--output', tmp_path / 'out']
    fails(*common, '--video_path', videos / 'first.mp4', '--ray', says=['--ray does nothing for one video'])
    fails(*common, '--video_path', videos, '--workers', '3', says=['--workers says more about --ray'])
    fails(*common, '--source', '0', '--ray', says=['--ray does nothing when a stream is watched'])
    fails(*common, '--video_path', videos, '--truth', videos / 'none.json', says=['--truth is about one video'])
    fails(*common, '--video_path', videos / 'first.mp4', '--truth', videos / 'none.json', says=['none.json', 'no such file'])
