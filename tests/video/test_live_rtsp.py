"A camera that speaks RTSP, served by GStreamer: it stalls, loses its network, changes its picture and asks for a password"
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from brightness import Brightness
from rtsp_server import RtspServer, is_here

from paligemma_vqa.media.reading import read_frames
from paligemma_vqa.schema import VQAError
from paligemma_vqa.video.live import live

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not is_here(), reason='needs the RTSP server of GStreamer')]


class Noting(Brightness):
    "Keeps what it saw"
    def __init__(self):
        super().__init__()
        self.sizes = []

    def answer(self, image):
        self.sizes.append(image.shape[1::-1])
        return super().answer(image)


def watched(camera, *steps, address=None, **options):
    "Watch it while `steps`, pairs of seconds to wait and what to do, are taken"
    predictor, alerts = Noting(), []
    def work():
        while not predictor.sizes: time.sleep(0.05)
        for wait_s, action in steps: time.sleep(wait_s); action()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    report = live(predictor, address or camera.address, fps=10, on_alert=alerts.append, **dict(timeout_s=1) | options)
    thread.join()
    return report, predictor, alerts


def test_it_is_watched_and_the_clock_is_that_of_the_wall():
    with RtspServer() as camera: report, predictor, alerts = watched(camera, duration_s=4)
    assert 20 <= report.answered <= 45 and not report.outages and not alerts and report.ended == '4 s are over' and report.exit_code == 0


def test_a_stall_is_an_outage_and_the_watch_goes_on():
    with RtspServer() as camera:
        report, predictor, _ = watched(camera, (1, lambda: camera.tell('stall 1')), (4, lambda: camera.tell('stall 0')), duration_s=12)
    [gap] = report.outages
    assert 2 < gap.length_s < 9 and gap.start_s < 5 and report.exit_code == 0
    assert len(predictor.sizes) > 10 * gap.start_s + 5   # there was more behind it


def test_a_cut_is_an_outage_with_alerts_and_the_watch_goes_on():
    with RtspServer() as camera:
        report, _, alerts = watched(camera, (1, camera.cut), (6, camera.start), duration_s=16)
    [gap] = report.outages
    assert 5 < gap.length_s < 12 and [alert.phase for alert in alerts] == ['lost', 'back']


def test_a_camera_that_does_not_come_back_is_given_up():
    began = time.monotonic()
    with RtspServer() as camera: report, *_ = watched(camera, (1, camera.cut), give_up_s=3)
    assert report.exit_code == 1 and report.ended.startswith('the stream was gone for 3 s') and time.monotonic() - began < 25


def test_another_resolution_is_taken_as_it_comes():
    with RtspServer() as camera:
        report, predictor, _ = watched(camera, (2, lambda: camera.tell('size 640 480')), duration_s=6)
    assert predictor.sizes[0] == (320, 240) and predictor.sizes[-1] == (640, 480) and set(predictor.sizes) == {(320, 240), (640, 480)}
    assert report.exit_code == 0


def test_a_wrong_password_is_one_clear_line_that_does_not_show_it(tmp_path):
    with RtspServer('ann:secret') as camera:
        for user in ('ann:guess@', ''):
            address = camera.address.replace('//', f'//{user}')
            for opened in (lambda: live(Noting(), address, timeout_s=2, output_dir=tmp_path), lambda: next(read_frames(address))):
                with pytest.raises(VQAError, match='401 Unauthorized.*right name and password') as error: opened()
                assert error.value.exit_code == 2 and 'guess' not in str(error.value)
        report, *_ = watched(camera, address=camera.address.replace('//', '//ann:secret@'), duration_s=2, output_dir=tmp_path / 'out', timeout_s=3)
    assert report.answered and report.source == camera.address.replace('//', '//***@')
    assert not any('secret' in path.read_text() for path in (tmp_path / 'out').rglob('*') if path.is_file())
    assert not list(tmp_path.glob('20*'))   # no folder of a session that never began


COMMAND = '''
import sys; sys.path[:0] = {paths!r}
from brightness import Brightness
import paligemma_vqa.command.video as video
video.predictor_of = lambda *args, **options: Brightness()   # in place of a model that takes ten seconds to load
from paligemma_vqa.command.cli import main
main()'''


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_a_report(sent, tmp_path):
    "Ctrl-C and what a supervisor sends: in good order, and the password of the camera stands nowhere"
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    with RtspServer('ann:secret') as camera:
        process = subprocess.Popen([sys.executable, '-c', COMMAND.format(paths=paths), 'video', '--source', camera.address.replace('//', '//ann:secret@'),
                                    '--model', 'tiny', '--output', str(tmp_path), '--json'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not list(tmp_path.glob('*/frames.jsonl')): time.sleep(0.1)
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    report = json.loads(out.splitlines()[-1])
    [folder] = tmp_path.iterdir()
    assert report['ended'] == 'stopped' and report['folder'] == str(folder) and json.loads((folder / 'report.json').read_text())['answered'] > 0
    assert 'secret' not in out + err + ''.join(path.read_text() for path in folder.iterdir())


def test_ctrl_c_before_the_first_answer(tmp_path):
    "The camera is there and sends nothing yet"
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    with RtspServer() as camera:
        os.kill(camera._process.pid, signal.SIGSTOP)   # it takes the call, and says nothing
        process = subprocess.Popen([sys.executable, '-c', COMMAND.format(paths=paths), 'video', '--source', camera.address, '--model', 'tiny', '--output', str(tmp_path), '--json'],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and f':{camera.port:04X} 01 '.encode() not in calls(process.pid): time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 4.5   # the network would be given five seconds
    assert process.returncode == 130 and err.strip() == f'Error: {camera.address}: stopped before it was open.' and not out and not list(tmp_path.iterdir())


def calls(process_id:int) -> bytes:
    "Connections of a process, as the kernel lists them"
    try: return Path(f'/proc/{process_id}/net/tcp').read_bytes()
    except OSError: return b''
