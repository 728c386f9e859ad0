"A disk that fills up at twenty moments: one clear line, what was made before is kept, and the same command goes on when there is space again"
import os, shutil, subprocess
from contextlib import contextmanager

import pytest
from terminal import run

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path):
    (folder := tmp_path / 'disk').mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', folder], capture_output=True).returncode == 0
    if not mounted: pytest.skip('mounting a small file system needs root')
    yield folder
    subprocess.run(['umount', '--lazy', folder], check=True)


@contextmanager
def only(disk, kilobytes):
    "All but so much of the disk is taken"
    ballast, free = disk / 'ballast', shutil.disk_usage(disk).free
    with open(ballast, 'wb') as file: os.posix_fallocate(file.fileno(), 0, free - kilobytes * 1024)
    try: yield
    finally: ballast.unlink()


def fails_with_one_line(done):
    errors = [line for line in done.stderr.splitlines() if line.startswith('Error:')]
    assert done.returncode in (1, 2) and len(errors) == 1 and 'Traceback' not in done.stderr and 'should not happen' not in done.stderr, done.stderr[-2000:]
    assert any(word in errors[0].lower() for word in ('no space left', 'nothing can be written')), errors[0]
    return errors[0]


@pytest.mark.parametrize('kilobytes', [0, 40, 300, 900, 1500, 3000])
def test_training(trained, disk, kilobytes):
    arguments = ('train', '--data', trained / 'data', '--model', 'tiny', '--output', disk / 'run', '--set', 'max_steps=4', '--set', 'eval_steps=2', '--resume')
    with only(disk, kilobytes): fails_with_one_line(run(*arguments))
    done = run(*arguments)
    assert done.returncode == 0 and 'finished' in done.stdout, done.stderr[-2000:]
    assert not [path for path in (disk / 'run').rglob('*') if path.name.endswith(('.partial', '.tmp', '.old'))]


@pytest.mark.parametrize('kilobytes', [0, 8, 40, 100])
def test_answers(trained, disk, kilobytes):
    arguments = ('infer', '--image_path', trained / 'data' / 'images', '--lora_path', trained / 'run' / 'adapter', '--save_dir', disk / 'kept', '--json')
    with only(disk, kilobytes): error = fails_with_one_line(first := run(*arguments))
    before = first.stdout.splitlines()
    done = run(*arguments)
    assert done.returncode == 0, (error, done.stderr[-2000:])
    assert set(before) <= set(done.stdout.splitlines()) and len(done.stdout.splitlines()) == len(list((trained / 'data/images').iterdir()))
    if before: assert 'were answered before' in done.stderr


@pytest.mark.parametrize('kilobytes', [0, 8, 40, 120])
def test_a_video(trained, bikes, disk, kilobytes):
    arguments = ('video', '--video_path', bikes, '--lora_path', trained / 'run' / 'adapter', '--output', disk / 'out', '--fps', '1')
    with only(disk, kilobytes): fails_with_one_line(run(*arguments))
    done = run(*arguments)
    assert done.returncode == 0 and (disk / 'out/report.json').exists(), done.stderr[-2000:]


@pytest.mark.parametrize('kilobytes', [0, 8, 100])
def test_an_evaluation(trained, disk, kilobytes):
    arguments = ('evaluate', '--data', trained / 'data', '--lora_path', trained / 'run' / 'adapter', '--output', disk / 'report', '--no-baselines')
    with only(disk, kilobytes): fails_with_one_line(run(*arguments))
    done = run(*arguments)
    assert done.returncode == 0 and (disk / 'report/report.html').exists(), done.stderr[-2000:]


@pytest.mark.parametrize('kilobytes', [0, 4, 12])
def test_labels(trained, disk, kilobytes):
    "Taken over from a file: the labels that were there are kept, whatever happens"
    data = shutil.copytree(trained / 'data', disk / 'data', ignore=shutil.ignore_patterns('*.mp4'))
    run('export', data, disk / 'labels.csv')
    before = (data / 'labels.jsonl').read_bytes()
    (disk / 'labels.csv').write_text((disk / 'labels.csv').read_text().replace(',1', ',2'))
    with only(disk, kilobytes): fails_with_one_line(run('import', disk / 'labels.csv', data, '--replace'))
    assert (data / 'labels.jsonl').read_bytes() == before
    done = run('import', disk / 'labels.csv', data, '--replace')
    assert done.returncode == 0 and (data / 'labels.jsonl').read_bytes() != before, done.stderr[-2000:]
