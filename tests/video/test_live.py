"Watching as it goes wrong: cameras that are missing, silent or cut, receivers that are dead, processes that are killed"
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from brightness import Brightness, flicker
from camera_server import CameraServer
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.video.alerts import EventWatch
from paligemma_vqa.video.live import live
from paligemma_vqa.video.session import read_session
from paligemma_vqa.video.smoothing import Smoothed, to_segments

GRAY = [np.full((48, 64, 3), 50 + i % 2, np.uint8) for i in range(25)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.2] * 20 + [1.9, 2.1, 60.0]), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_live_cuts_where_a_file_is_cut(steps):
    schema = EventSchema(events=('A', 'B'))
    times_s = np.round(np.cumsum([gap for gap, *_ in steps]), 3)
    codes = np.array([[a, b] for _, a, b in steps])
    watch, found = EventWatch(schema, hold_s=2.0), []
    for time_s, row in zip(times_s, codes): found += watch.see(Smoothed(float(time_s), tuple(map(int, row)), np.full((2, 5), 0.2)))[1]
    found += watch.finish()
    expected = to_segments(codes, times_s, schema, hold_s=2.0)
    # where a stretch ends at a gap, both say "one usual frame later"; only a file knows the usual frame beforehand
    assert [(s.event, s.phase, round(s.start_s, 3)) for s in sorted(found, key=lambda s: (s.start_s, s.event))] == \
           [(s.event, s.phase, round(s.start_s, 3)) for s in sorted(expected, key=lambda s: (s.start_s, s.event))]
    for before, after in zip(watch_rows(found, 'A'), watch_rows(found, 'A')[1:]): assert before.end_s <= after.start_s + 1e-6


def watch_rows(segments, event): return sorted((s for s in segments if s.event == event), key=lambda s: s.start_s)


def test_an_outage_ends_segments_and_arms_alerts_again():
    alerts = []
    with CameraServer(GRAY) as camera:
        def cut(): time.sleep(1.5); camera.cut(); time.sleep(2.5); camera.start()
        cutter = threading.Thread(target=cut)
        cutter.start()
        report = live(Brightness(0.005), camera.address, fps=10, alerts=['A'], on_alert=alerts.append, duration_s=7, timeout_s=1)
        cutter.join()
    began = [alert.time_s for alert in alerts if alert.kind == 'event' and alert.event == 'A']
    segments = [segment for segment in report.segments if segment.event == 'A']
    assert len(segments) == 2 == len(began) and len(report.outages) == 1
    gap = report.outages[0]
    assert segments[0].end_s == pytest.approx(gap.start_s, abs=0.5) and segments[1].start_s == pytest.approx(gap.start_s + gap.length_s, abs=0.5)


def test_a_camera_that_is_missing_or_gets_unplugged_is_given_up():
    with pytest.raises(VQAError, match='camera 97 cannot be opened'): live(Brightness(), 97, give_up_s=1)
    alerts = []
    with CameraServer(GRAY) as camera:
        threading.Timer(1.0, camera.cut).start()
        began = time.monotonic()
        report = live(Brightness(), camera.address.replace("http://", "http://ann:secret@"), give_up_s=6, timeout_s=1, on_alert=alerts.append)
    assert report.exit_code == 1 and report.ended.startswith('the stream was gone for 6 s') and time.monotonic() - began < 20
    assert [alert.phase for alert in alerts if alert.kind == 'feed'] == ['lost']
    assert 'secret' not in repr(report) and report.source == camera.address.replace('http://', 'http://***@')


def test_a_camera_that_hangs_is_given_up(monkeypatch):
    "A driver that never returns: its thread is left behind, and the watch ends"
    import cv2
    class Hanging:
        def __init__(self, *_): self.count = 0
        def isOpened(self): return True
        def read(self):
            self.count += 1
            if self.count > 3: time.sleep(30)
            return True, GRAY[0]
        def release(self): pass
    monkeypatch.setattr(cv2, 'VideoCapture', Hanging)
    began = time.monotonic()
    report = live(Brightness(), 0, give_up_s=1, timeout_s=0.5)
    assert report.exit_code == 1 and 'gone for 1 s' in report.ended and time.monotonic() - began < 6


@pytest.mark.slow
def test_dead_receivers_slow_nothing(tmp_path):
    path, delivered = flicker(tmp_path / 'video.mp4', 4, fps=10, hold_s=1), []
    class Dead(BaseHTTPRequestHandler):
        def do_POST(self): time.sleep(30)
        def log_message(self, *_): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Dead)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    receivers = [f'http://127.0.0.1:{server.server_port}/', 'sleep 9', 'exit 1', delivered.append]
    report = live(Brightness(), path, alerts=['A', 'B', 'C', 'D'], on_alert=receivers, output_dir=tmp_path)
    server.shutdown()
    assert delivered and report.alerts == len(delivered) and report.dropped_share < 0.5
    assert report.undelivered == 3 * len(delivered) and report.exit_code == 1


def test_a_camera_that_says_nothing_is_left_at_once_when_asked():
    "It takes the call and is silent: the time that a network is given would be waited for otherwise"
    stop, began = threading.Event(), time.monotonic()
    with socket.create_server(('127.0.0.1', 0)) as silent:
        threading.Timer(0.5, stop.set).start()
        with pytest.raises(VQAError, match='stopped before it was open') as error:
            live(Brightness(), f'rtsp://ann:secret@127.0.0.1:{silent.getsockname()[1]}/x', timeout_s=20, stop=stop)
    assert error.value.exit_code == 130 and 'secret' not in str(error.value) and time.monotonic() - began < 6


WATCH = '''
import signal, sys, threading
sys.path[:0] = {paths!r}
from brightness import Brightness
from paligemma_vqa.video.live import live
print('ready', flush=True)
live(Brightness(), {source!r}, fps=10, output_dir={out!r}, on_answer=lambda time_s, *_: print(time_s, flush=True))'''


def test_killed_it_keeps_what_was_decided(tmp_path):
    path = flicker(tmp_path / 'video.mp4', 30, fps=10, hold_s=30)
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    process = subprocess.Popen([sys.executable, '-c', WATCH.format(paths=paths, source=str(path), out=str(tmp_path / 'out'))],
                               stdout=subprocess.PIPE, text=True)
    answered = 0.0
    while answered < 3: answered = float(next(line for line in process.stdout if line.strip() != 'ready'))
    process.kill()
    process.wait()
    [folder] = (tmp_path / 'out').iterdir()
    assert not (folder / 'report.json').exists() and json.loads((folder / 'session.json').read_text())['started_at']
    last = json.loads((folder / 'frames.jsonl').read_text().splitlines()[-1])
    assert last['time_s'] > answered - 1.0   # the lag is half a second
    for segment in read_session(folder, Brightness.schema): assert segment.end_s > 2


@pytest.mark.slow
def test_the_command_ends_in_good_order_at_sigterm(tmp_path):
    "And never shows the password of the camera, neither on the screen nor in a file"
    with CameraServer(GRAY) as camera:
        address = camera.address.replace('http://', 'http://ann:secret@')
        command = [sys.executable, '-m', 'paligemma_vqa', 'video', '--source', address, '--model', 'tiny', '--output', str(tmp_path), '--json']
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
                                   env=os.environ | dict(HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1'))
        while process.poll() is None and not list(tmp_path.glob('*/frames.jsonl')): time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    report = json.loads(out.splitlines()[-1])
    [folder] = tmp_path.iterdir()
    assert report['ended'] == 'stopped' and report['folder'] == str(folder) and (folder / 'report.json').exists()
    assert 'secret' not in out + err + ''.join(path.read_text() for path in folder.iterdir())
