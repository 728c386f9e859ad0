"A camera that speaks RTSP, served by GStreamer: it stalls, loses its network, changes its picture and asks for a password"
import threading
import time

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
