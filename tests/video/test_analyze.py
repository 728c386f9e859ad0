"Whole analyses, streams that break, memory that does not grow"
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from brightness import Brightness, flicker
from camera_server import CameraServer
from PIL import Image

from paligemma_vqa.media.images import open_image
from paligemma_vqa.labeling.widget import LabelingTool
from paligemma_vqa.video.live import live
from paligemma_vqa.video.folder import analyze_folder, analyze_folder_on_ray
from paligemma_vqa.media.reading import read_frames, video_info
from paligemma_vqa.scenes.videos import make_video, plan_scene
from paligemma_vqa.schema import VQAError
from paligemma_vqa.video.exports import read_segments
from paligemma_vqa.video.analyze import ahead, analyze_video, load_result


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp('videos') / 'scene.mp4'
    make_video(path, plan_scene(3, duration_s=8), 128)
    return path


def test_everything_is_written_and_read_back(video, tmp_path):
    result = analyze_video(Brightness(), video, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {'annotated.mp4', 'frames.jsonl', 'report.json', 'segments.boris', 'segments.csv', 'segments.eaf',
                                                         'segments.json', 'segments.srt', 'segments.vtt', 'timeline.png'}
    again = load_result(tmp_path, Brightness.schema)
    assert np.array_equal(again.codes, result.codes) and np.array_equal(again.times_s, result.times_s)
    assert [s.event for s in read_segments(tmp_path / 'segments.csv')] == [s.event for s in result.segments]
    assert video_info(tmp_path / 'annotated.mp4').duration_s == pytest.approx(8, abs=0.25)


def test_batches_and_folders_of_pictures_give_the_same(video, tmp_path):
    one = analyze_video(Brightness(), video, tmp_path / 'one', annotated=False)
    many = analyze_video(Brightness(), video, tmp_path / 'many', batch_size=7, annotated=False)
    assert np.allclose(one.probabilities, many.probabilities) and np.array_equal(one.times_s, many.times_s)
    (tmp_path / 'pictures').mkdir()
    for frame in read_frames(video, 5): Image.fromarray(frame.image).save(tmp_path / f'pictures/scene_{frame.index:06d}.png')
    folder = analyze_video(Brightness(), tmp_path / 'pictures', tmp_path / 'folder', annotated=False, folder_fps=10)
    assert np.allclose(one.probabilities, folder.probabilities)


def test_unchanged_frames_are_not_asked_again_and_hardly_change_anything(tmp_path):
    path, all_, some = flicker(tmp_path / 'video.mp4', 40), Brightness(), Brightness()
    full = analyze_video(all_, path, tmp_path / 'full', annotated=False)
    skipping = analyze_video(some, path, tmp_path / 'skipping', annotated=False, skip_unchanged=2)
    assert all_.asked == 200 and some.asked <= 25 and skipping.timing['answered'] == some.asked
    assert (full.codes == skipping.codes).mean() > 0.97
    batched = analyze_video(Brightness(), path, tmp_path / 'batched', annotated=False, skip_unchanged=2, batch_size=4)
    assert np.allclose(batched.probabilities, skipping.probabilities)


def test_a_damaged_video_gives_the_rest_and_says_what_was_lost(video, tmp_path):
    content = bytearray(video.read_bytes())
    middle = len(content) * 6 // 10
    content[middle:middle + 3000] = bytes(3000)
    (tmp_path / 'damaged.mp4').write_bytes(content)
    result = analyze_video(Brightness(), tmp_path / 'damaged.mp4', tmp_path / 'out')
    report = json.loads((tmp_path / 'out/report.json').read_text())
    assert 5 < len(result.times_s) < 40 and report['losses'][0]['end_s'] > report['losses'][0]['start_s']
    for loss in result.losses: assert not any(loss.start_s < time_s < loss.end_s for time_s in result.times_s)


def test_a_failing_model_leaves_no_report_and_no_threads(video, tmp_path):
    class Failing(Brightness):
        def answer(self, image):
            if self.asked == 5: raise VQAError('the model fell over', exit_code=1)
            return super().answer(image)
    analyze_video(Brightness(), video, tmp_path, annotated=False)   # an earlier, whole result
    before = threading.active_count()
    with pytest.raises(VQAError, match='fell over'): analyze_video(Failing(), video, tmp_path)
    time.sleep(0.5)
    assert threading.active_count() <= before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['.answers.jsonl']   # what was found so far, for the next run; nothing stale


def test_wrong_truth_is_found_before_the_work(video, tmp_path):
    (tmp_path / 'truth.csv').write_text('event,phase,start_s,end_s\nX,1,0,1\n')
    predictor = Brightness()
    with pytest.raises(VQAError, match="truth.csv:2: unknown event 'X'"): analyze_video(predictor, video, tmp_path / 'out', truth=tmp_path / 'truth.csv')
    assert predictor.asked == 0


def test_ahead_keeps_order_and_bounds():
    made = []
    def items():
        for i in range(100): made.append(i); yield i
    for i in ahead(items(), 3):
        assert len(made) - i <= 6
        if i == 50: break
    time.sleep(0.2)
    assert len(made) < 60


@pytest.mark.slow
def test_folder_goes_on_after_a_kill(video, tmp_path):
    "The process is killed in the middle; the second run keeps what was finished and gives what an undisturbed one gives"
    import shutil
    for i in range(4): (tmp_path / 'in').mkdir(exist_ok=True); shutil.copy2(video, tmp_path / f'in/video{i}.mp4')
    script = f'''
import sys; sys.path[:0] = [{str(Path(__file__).parents[1])!r}, {str(Path(__file__).parents[2])!r}]
from brightness import Brightness
from paligemma_vqa.video.folder import analyze_folder
analyze_folder(Brightness(0.02), {str(tmp_path / "in")!r}, {str(tmp_path / "out")!r}, annotated=False)'''
    process = subprocess.Popen([sys.executable, '-c', script], cwd=Path(__file__).parents[1])
    while not (tmp_path / 'out/video1/report.json').exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    outcomes = analyze_folder(Brightness(), tmp_path / 'in', tmp_path / 'out', annotated=False)
    assert [outcome.status for outcome in outcomes][:2] == ['kept', 'kept'] and 'done' in [outcome.status for outcome in outcomes]
    analyze_folder(Brightness(), tmp_path / 'in', tmp_path / 'undisturbed', annotated=False)
    assert (tmp_path / 'out/segments.csv').read_bytes() == (tmp_path / 'undisturbed/segments.csv').read_bytes()


def test_a_stream_that_is_cut_is_taken_up_again():
    "Half of the five seconds of the slow test below, which is the issue of a real network"
    watch_a_cut(before_s=1.5, cut_s=2.0, after_s=3.0)


@pytest.mark.slow
def test_a_stream_that_is_cut_for_five_seconds():
    watch_a_cut(before_s=3.0, cut_s=5.0, after_s=5.0)


def watch_a_cut(before_s, cut_s, after_s):
    pictures = [np.full((48, 64, 3), 20 + 8 * i, np.uint8) for i in range(25)]
    answered = []
    with CameraServer(pictures) as camera:
        def cut(): time.sleep(before_s); camera.cut(); time.sleep(cut_s); camera.start()
        cutter = threading.Thread(target=cut)
        cutter.start()
        report = live(Brightness(0.005), camera.address, on_answer=lambda time_s, prediction, latency_ms: answered.append(time_s),
                      duration_s=before_s + cut_s + after_s, timeout_s=2)
        cutter.join()
    assert len(report.outages) == 1 and report.outages[0].length_s == pytest.approx(cut_s, abs=2.5)
    assert max(answered) > before_s + cut_s + 0.2 and min(answered) < before_s
    assert report.received == report.answered + report.dropped


def test_a_stream_that_does_not_come_back():
    with CameraServer([np.zeros((48, 64, 3), np.uint8)]) as camera:
        threading.Timer(1.0, camera.cut).start()
        report = live(Brightness(), camera.address, duration_s=30, give_up_s=1.0, timeout_s=1)
    assert 'was gone for 1 s' in report.ended and report.seconds < 15


def test_live_is_not_late_when_the_model_is_slow(tmp_path):
    path = flicker(tmp_path / 'video.mp4', 6, fps=25)
    alerts, lines = [], tmp_path / 'out'
    report = live(Brightness(0.2), path, latency_budget_ms=1000, alerts=['A', 'B:3'], on_alert=alerts.append, output_dir=lines)
    assert report.ended == 'the file is over' and report.dropped_share > 0.6
    assert report.seconds < 9 and report.latency_ms['p95'] < 1500   # generous: the machine may be busy
    assert alerts and all(json.loads(alert.to_json())['event'] in 'AB' for alert in alerts)
    written = [json.loads(line) for line in next(lines.glob('*/segments.jsonl')).read_text().splitlines()]
    assert len(written) == len(report.segments)


def test_live_in_batches_and_stopped_from_another_thread(tmp_path):
    path, stop = flicker(tmp_path / 'video.mp4', 20, fps=25), threading.Event()
    threading.Timer(2, stop.set).start()
    report = live(Brightness(0.01), path, batch_size=4, stop=stop)
    assert report.ended == 'stopped' and report.answered > 3 and report.seconds < 10


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    """Peak memory at 2 and at 12 minutes, each in a process of its own; few events, because each one drawn on the timeline takes
    some. If only every picture that is looked at were kept, 3,000 of them would be 110 MB"""
    peaks = {}
    for minutes in (2, 12):
        path = flicker(tmp_path / f"{minutes}.mp4", minutes * 60, size=(96, 128), hold_s=20)
        script = f'''
import re, sys; sys.path[:0] = [{str(Path(__file__).parents[1])!r}, {str(Path(__file__).parents[2])!r}]
from brightness import Brightness
from paligemma_vqa.video.analyze import analyze_video
analyze_video(Brightness(), {str(path)!r}, {str(tmp_path / "out")!r})
# Not `ru_maxrss`: a process begins with that of the one that started it
print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1000)'''
        peaks[minutes] = float(subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stdout)
    print(f'peak memory: {peaks[2]:.0f} MB at 2 minutes, {peaks[12]:.0f} MB at 12')
    assert peaks[12] < peaks[2] * 1.1 + 20


@pytest.mark.slow
def test_two_ray_workers_give_what_one_process_gives(video, tmp_path):
    ray = pytest.importorskip('ray')
    from ray.cluster_utils import Cluster
    import shutil
    for i in range(3): (tmp_path / 'in').mkdir(exist_ok=True); shutil.copy2(video, tmp_path / f'in/video{i}.mp4')
    (tmp_path / 'in/broken.mp4').write_bytes(b'nothing')
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False))
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, runtime_env=dict(env_vars=dict(PYTHONPATH=os.pathsep.join(map(str, Path(__file__).parents[1:3])))))
    try: on_ray = analyze_folder_on_ray(Brightness, tmp_path / 'in', tmp_path / 'ray', annotated=False)
    finally: ray.shutdown(); cluster.shutdown()
    alone = analyze_folder(Brightness(), tmp_path / 'in', tmp_path / 'alone', annotated=False)
    assert [(o.video, o.status, o.segments) for o in on_ray] == [(o.video, o.status, o.segments) for o in alone]
    assert (tmp_path / 'ray/segments.csv').read_bytes() == (tmp_path / 'alone/segments.csv').read_bytes()


@pytest.mark.slow
def test_doubtful_frames_of_a_folder_of_videos_are_what_the_labeling_tool_opens(tmp_path):
    "The command as its user runs it, on two videos of the same name in a data set that has pictures already"
    for day in (1, 2): make_video(tmp_path / f'videos/day {day}/case.mp4', plan_scene(day, duration_s=4), 64)
    (tmp_path / 'data/images').mkdir(parents=True)
    Image.new('RGB', (64, 64)).save(tmp_path / 'data/images/before.jpg')
    command = [sys.executable, '-c', 'from paligemma_vqa.command.program import main; main()', 'video', '--video_path', tmp_path / 'videos', '--model', 'tiny',
               '--output', tmp_path / 'out', '--fps', '2', '--to-label', tmp_path / 'data', '--budget', '5', '--json']
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ | dict(HF_HUB_OFFLINE='1'))
    assert done.returncode == 0, done.stderr
    *outcomes, last = map(json.loads, done.stdout.splitlines())
    assert [outcome['status'] for outcome in outcomes] == ['done', 'done'] and len(last['asked']) == 5
    session = LabelingTool(tmp_path / 'data', annotator='ann').session
    assert session.queue_name == 'asked' and [str(tmp_path / 'data' / item) for item in session.queue] == last['asked']
    for item in session.queue:   # the picture is the frame that it says, as far as JPEG keeps it
        day, index = item.split('/')[1].split()[1], int(item[-10:-4])
        frame = next(frame for frame in read_frames(tmp_path / f'videos/day {day}/case.mp4') if frame.index == index)
        assert np.abs(open_image(tmp_path / 'data' / item).astype(int) - frame.image).mean() < 4
    session.store.set_status(list(session.queue), 'done')
    assert LabelingTool(tmp_path / 'data', annotator='ann').session.queue_name == 'time'   # nothing is asked for any more


@pytest.mark.browser
def test_annotated_video_plays_in_a_browser(browser, video, tmp_path):
    import functools, http.server
    analyze_video(Brightness(), video, tmp_path)
    (tmp_path / 'page.html').write_text('<video id="v" src="annotated.mp4" controls muted><track default src="segments.vtt"></video>')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = browser.new_page()
        page.goto(f'http://127.0.0.1:{server.server_port}/page.html')
        state = page.evaluate('''async () => {
            const video = document.getElementById('v');
            await video.play();
            await new Promise(done => video.addEventListener('timeupdate', () => video.currentTime > 0.4 && done()));
            return {width: video.videoWidth, duration: video.duration, at: video.currentTime, error: video.error,
                    cues: video.textTracks[0].cues ? video.textTracks[0].cues.length : 0}; }''')
        page.close()
    finally: server.shutdown()
    assert state['error'] is None and state['width'] == 128 and state['at'] > 0.4 and state['duration'] == pytest.approx(8, abs=0.3)
    assert state['cues'] > 0
