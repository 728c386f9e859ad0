"Several videos at once: the same files as one after the other, and no port that another machine could reach"
import json, subprocess, time

import psutil, pytest
from terminal import COMMAND, fails, run

from paligemma_vqa.scenes.videos import make_video, plan_scene


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("Anna's videos")
    for name in ('first', 'second'): make_video(folder / f'{name}.mp4', plan_scene(len(name), duration_s=2), 64)
    return folder


def listening(process) -> set[str]:
    "The addresses on which a process and those that it started listen"
    found = set()
    for one in [process, *process.children(recursive=True)]:
        try: found |= {connection.laddr.ip for connection in one.net_connections('inet') if connection.status == 'LISTEN'}
        except psutil.Error: pass   # it has just ended
    return found


@pytest.mark.slow
def test_on_ray_the_files_are_the_same_and_only_this_machine_can_reach_its_ports(videos, tmp_path):
    pytest.importorskip('ray')
    arguments = ['video', '--video_path', str(videos), '--model', 'tiny', '--fps', '2', '--no-annotated', '--json']
    out, error, heard = tmp_path / 'out', tmp_path / 'error', set()
    with open(out, 'w') as stdout, open(error, 'w') as stderr:
        started = subprocess.Popen([*COMMAND, *arguments, '--output', str(tmp_path / 'ray'), '--ray', '--workers', '2'], stdout=stdout, stderr=stderr)
        while started.poll() is None:
            heard |= listening(psutil.Process(started.pid))
            time.sleep(1)
    assert started.returncode == 0, error.read_text()[-2000:]
    assert heard and heard <= {'127.0.0.1', '::1', '::ffff:127.0.0.1'}, heard
    assert [json.loads(line)['status'] for line in out.read_text().splitlines()] == ['done'] * 2
    assert run(*arguments, '--output', tmp_path / 'alone').returncode == 0
    for name in ('segments.csv', 'first/frames.jsonl', 'second/segments.json'):
        assert (tmp_path / 'ray' / name).read_bytes() == (tmp_path / 'alone' / name).read_bytes(), name


@pytest.mark.slow
def test_no_cluster_at_the_address_is_one_line(videos, tmp_path):
    pytest.importorskip('ray')
    fails('video', '--video_path', videos, '--model', 'tiny', '--output', tmp_path / 'out', '--ray', '127.0.0.1:9', says=['no Ray cluster at', "'127.0.0.1:9'"], code=1)
    fails('video', '--video_path', videos, '--model', 'tiny', '--output', tmp_path / 'out', '--ray', 'nope', says=["at 'nope' (it is not HOST:PORT)"], code=1)


def test_what_ray_cannot_do_is_refused_before_anything_is_loaded(videos, tmp_path):
    common = ['video', '--model', 'tiny', '--output', tmp_path / 'out']
    fails(*common, '--video_path', videos / 'first.mp4', '--ray', says=['--ray does nothing for one video'])
    fails(*common, '--video_path', videos, '--workers', '3', says=['--workers says more about --ray'])
    fails(*common, '--source', '0', '--ray', says=['--ray does nothing when a stream is watched'])
    fails(*common, '--video_path', videos, '--truth', videos / 'none.json', says=['--truth is about one video'])
    fails(*common, '--video_path', videos / 'first.mp4', '--truth', videos / 'none.json', says=['none.json', 'no such file'])
