"What is written comes out again: colours, times, and the same bytes for the same frames"
import av
import numpy as np
import pytest

from paligemma_vqa.media.reading import frame_at, read_frames, video_info
from paligemma_vqa.media.writing import VideoWriter

COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (30, 200, 60), (200, 120, 90), (128, 128, 128)], np.uint8)


def stripes(width, height): return COLORS[np.arange(width) * len(COLORS) // width][None].repeat(height, axis=0)


@pytest.mark.parametrize('width,height', [(640, 480), (1024, 576), (1280, 720), (960, 1080)])
def test_colours_survive(tmp_path, width, height):
    "In our reader, and in any other: the file says by which recipe its colours were made"
    picture = stripes(width, height)
    with VideoWriter(tmp_path / 'a.mp4', quality=12) as writer: writer.write(picture, 0)
    middles = np.arange(len(COLORS)) * width // len(COLORS) + width // (2 * len(COLORS))
    with av.open(str(tmp_path / 'a.mp4')) as container:
        stored = next(container.decode(video=0))
    is_high = height > 576 or width >= 1280
    assert (int(stored.colorspace), int(stored.color_primaries), int(stored.color_trc)) == ((1,) * 3 if is_high else (6,) * 3)
    assert int(stored.color_range) == 1
    for image in (frame_at(tmp_path / 'a.mp4', 0).image, stored.to_ndarray(format='rgb24')):
        assert np.abs(image[height // 2, middles].astype(int) - COLORS).max() <= 5


def test_repeatable_files_are_the_same_to_the_byte(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), dtype=np.uint8)
    for name in 'ab':
        with VideoWriter(tmp_path / f'{name}.mp4', 10, is_repeatable=True) as writer:
            for number, image in enumerate(noise): writer.write(image, number / 10)
    assert (tmp_path / 'a.mp4').read_bytes() == (tmp_path / 'b.mp4').read_bytes()
    assert video_info(tmp_path / 'a.mp4').duration_s == pytest.approx(3)
    assert [frame.time_s for frame in read_frames(tmp_path / 'a.mp4')] == pytest.approx(np.arange(30) / 10)
