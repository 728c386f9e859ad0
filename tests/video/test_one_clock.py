"Everything that is written about a recording says when it begins and ends, and all of it says the same"
import json
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from brightness import Brightness
from hypothesis import Phase, given, settings, strategies as st
from media.zoo import ANIMALS, MPEG2, PLAIN, X264, encode, make

from paligemma_vqa.media.reading import VideoReader, video_info
from paligemma_vqa.schema import Segment
from paligemma_vqa.video.analyze import analyze_video
from paligemma_vqa.video.exports import read_segments

pytestmark = pytest.mark.skipif(not shutil.which('ffmpeg'), reason='ffmpeg makes the files')


def all_agree(path, folder, start_s=None, end_s=None):
    "`start_s`, `end_s`: what was put in, where that is known"
    result, info = analyze_video(Brightness(), path, folder, fps=5), video_info(path)
    with VideoReader(path) as reader: times_s = [time_s for _, time_s, _ in reader.moments()]
    frame_s = max(1 / info.fps, *np.diff(times_s))   # the last picture lasts as long as others do
    told_s = max([times_s[-1] + frame_s, *(loss.end_s for loss in reader.losses)])   # what was cut off behind is told
    assert times_s[0] == pytest.approx(info.start_s, abs=2e-3) and info.duration_s == pytest.approx(told_s, abs=1.5 * frame_s)
    if start_s is not None: assert (info.start_s, info.duration_s) == (pytest.approx(start_s, abs=2e-3), pytest.approx(end_s, abs=2e-3))
    report, written = json.loads((folder / 'report.json').read_text()), json.loads((folder / 'segments.json').read_text())
    [boris] = folder.glob('segments.boris')
    lengths = [length for observation in json.loads(boris.read_text())['observations'].values()
               for length in observation['media_info']['length'].values()]
    said = [result.clock.end_s, report['timing']['video_s'], written['duration_s'], *lengths]
    assert len(lengths) == 1 and said == [pytest.approx(info.duration_s, abs=2e-3)] * 4, said
    assert result.clock.start_s == pytest.approx(info.start_s, abs=2e-3)
    for segment in (*result.segments, *read_segments(folder / 'segments.csv'), *read_segments(folder / 'segments.json')):
        assert isinstance(segment, Segment) and info.start_s - 2e-3 <= segment.start_s < segment.end_s <= info.duration_s + 2e-3
    annotated = video_info(folder / 'annotated.mp4')
    step_s, is_cut = 1 / annotated.fps, info.duration_s > times_s[-1] + 1.5 * frame_s
    shown_s = times_s[-1] + frame_s if is_cut else info.duration_s   # no picture, no annotated picture
    assert annotated.start_s == pytest.approx(info.start_s, abs=step_s) and annotated.duration_s == pytest.approx(shown_s, abs=step_s + 2e-3)


@pytest.mark.parametrize('name', ['late.mp4', 'joined.ts'])
def test_files_of_the_zoo(name, tmp_path): all_agree(make(ANIMALS[name], tmp_path), tmp_path / 'out')


WAYS = [('mp4', X264), ('mp4', PLAIN), ('mkv', X264), ('ts', X264), ('avi', '-c:v mpeg4 -q:v 3 -bf 2'), ('flv', PLAIN), ('mpg', MPEG2), ('mov', '-c:v mjpeg -pix_fmt yuvj420p')]


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])   # each costs seconds: no shrinking
@given(st.sampled_from(WAYS), st.integers(4, 90), st.sampled_from(['25', '30000/1001', '24', '50']), st.sampled_from([0, 0, 2.4, 75.25]))
def test_any_length_rate_and_beginning(way, count, rate, late_s):
    suffix, arguments = way
    is_late = late_s if suffix in ('mp4', 'mkv', 'mov') else 0   # the others count from their first picture
    with tempfile.TemporaryDirectory() as folder:
        path = encode(Path(folder) / f'video.{suffix}', arguments + f' -output_ts_offset {late_s}', count, rate)
        all_agree(path, Path(folder) / 'out', is_late, is_late + count / float(Fraction(rate)))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['vfr.mp4', 'vfr.ts', 'late.mkv', 'sound_first.ts', 'wraps0.ts', 'joined_ahead.ts', 'editlist.mp4', 'timelapse.mkv',
                                  'mpeg4.avi', 'raw.h264', 'interlaced.ts', 'hole.ts', 'cut.mp4', 'turned90.mp4'])
def test_more_files_of_the_zoo(name, tmp_path): all_agree(make(ANIMALS[name], tmp_path), tmp_path / 'out')
