"What the notebook cannot show: rotation, rates that vary, every kind of damage"
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from paligemma_vqa.media.writing import VideoWriter
from paligemma_vqa.media.decoding import Grid
from paligemma_vqa.media.reading import VideoReader, frame_at, list_videos, read_frames, video_info
from paligemma_vqa.schema import VQAError


def numbered(number, height=120, width=160):
    "A picture that says its number in large squares of black and white"
    image = np.full((height, width, 3), 60, np.uint8)
    for bit in range(10):
        row, column = divmod(bit, 5)
        image[10 + 50 * row:50 + 50 * row, 10 + 30 * column:30 + 30 * column] = 235 if number >> bit & 1 else 20
    return image


def number_in(image):
    return sum(int(image[30 + 50 * row, 20 + 30 * column].mean() > 128) << 5 * row + column for row in range(2) for column in range(5))


def write(path, times, **options):
    with VideoWriter(path, **options) as writer:
        for number, time_s in enumerate(times): writer.write(numbered(number), time_s)
    return path


def encode(path, count=100, codec='libx264', container=None, rotate=0, gop=12, fps=25, start=0, times=None, **options):
    "With B-frames, as cameras write; at `times`, or `fps` a second"
    with av.open(str(path), 'w', format=container) as output:
        stream = output.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = 160, 120, 'yuvj420p' if codec == 'mjpeg' else 'yuv420p', gop
        if rotate: stream.set_display_rotation(rotate)
        if times is not None: stream.codec_context.time_base = Fraction(1, 90000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number + start), format='rgb24')
            if times is not None: frame.pts, frame.time_base = round(times[number] * 90000), Fraction(1, 90000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


@pytest.mark.parametrize('suffix,codec', [('mp4', 'libx264'), ('mkv', 'libx264'), ('ts', 'libx264'), ('avi', 'mpeg4'), ('mov', 'mjpeg')])
def test_containers(tmp_path, suffix, codec):
    path = encode(tmp_path / f'video.{suffix}', codec=codec)
    frames = list(read_frames(path))
    assert [number_in(frame.image) for frame in frames] == list(range(100))
    assert [frame.index for frame in frames] == list(range(100))
    assert np.allclose([frame.time_s - frames[0].time_s for frame in frames], np.arange(100) / 25, atol=1e-3)
    assert frames[0].time_s < 0.1
    sampled = [number_in(frame.image) for frame in read_frames(path, fps=5)]
    assert sampled == wanted_of(frames, 5) and len(sampled) == 20   # leaving out frames that nobody wants changes nothing


def wanted_of(frames, fps):
    "The numbers of the frames that sampling must give"
    grid = Grid(fps, 0.0, None)
    return [number_in(frame.image) for frame in frames if grid.wants(frame.time_s)]


def test_variable_rate_keeps_the_times(tmp_path):
    times = np.cumsum(np.random.default_rng(0).choice([0.02, 0.04, 0.5, 1.3], 60))
    path = write(tmp_path / 'variable.mp4', times)
    frames = list(read_frames(path))
    assert np.allclose([frame.time_s for frame in frames], times, atol=1e-3)
    counted = cv2.VideoCapture(str(path))   # what the usual way makes of it
    sampled = list(read_frames(path, fps=2))
    assert all(later.time_s - sooner.time_s > 0 for sooner, later in zip(sampled, sampled[1:]))
    assert [number_in(frame.image) for frame in sampled] == [frame.index for frame in sampled]
    counted.release()


@pytest.mark.parametrize('seed', range(3))
def test_sampling_a_variable_rate_gives_what_decoding_everything_gives(tmp_path, seed):
    times = np.cumsum(np.random.default_rng(seed).choice([0.02, 0.04, 0.04, 0.1, 0.15], 200))
    path = encode(tmp_path / 'variable.mp4', count=200, times=times, bf='3')
    frames = list(read_frames(path))
    assert np.allclose([frame.time_s for frame in frames], times, atol=1e-3)
    for fps in (10, 5, 3, 0.7):
        sampled = list(read_frames(path, fps))
        assert [number_in(frame.image) for frame in sampled] == [frame.index for frame in sampled] == wanted_of(frames, fps)
    grid = Grid(5, 4.0, None)
    wanted = [number_in(frame.image) for frame in frames if grid.wants(frame.time_s)]
    later = list(read_frames(path, 5, start_s=4))
    assert [number_in(frame.image) for frame in later] == [frame.index for frame in later] == wanted


@pytest.mark.parametrize('angle', [90, 180, 270])
def test_rotation(tmp_path, angle):
    turned = np.rot90(numbered(5), -angle // 90)   # how it is stored when the camera was turned
    with av.open(str(tmp_path / 'turned.mp4'), 'w') as output:
        stream = output.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt = *turned.shape[:2], 'yuv420p'
        stream.set_display_rotation(angle)
        for _ in range(5): output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(turned), format='rgb24')))
        output.mux(stream.encode())
    [frame, *_] = read_frames(tmp_path / 'turned.mp4')
    assert frame.image.shape == (120, 160, 3) and number_in(frame.image) == 5
    info = video_info(tmp_path / 'turned.mp4')
    assert (info.width, info.height) == (160, 120)
    small = frame_at(tmp_path / 'turned.mp4', 0, max_height=60).image
    assert small.shape == (60, 80, 3)


def test_a_file_that_was_cut_off_is_read_to_the_cut(tmp_path):
    path = write(tmp_path / 'whole.mp4', np.arange(200) / 25)
    (tmp_path / 'cut.mp4').write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with VideoReader(tmp_path / 'cut.mp4') as reader: frames = list(reader)
    assert 20 < len(frames) < 190
    assert [number_in(frame.image) for frame in frames] == [frame.index for frame in frames]
    [*_, loss] = reader.losses
    assert loss.end_s == pytest.approx(8, abs=0.1) and loss.start_s == pytest.approx(frames[-1].time_s, abs=0.5)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_damage_never_gives_a_wrong_frame_silently_at_a_wrong_place(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp('damage')
    path = encode(folder / 'video.mp4', count=60)
    content = bytearray(path.read_bytes())
    begin = data.draw(st.integers(content.index(b'mdat') + 8, len(content) - 2000))
    content[begin:begin + 700] = bytes(700)
    (folder / 'damaged.mp4').write_bytes(content)
    try:
        with VideoReader(folder / 'damaged.mp4') as reader: frames = list(reader)
    except VQAError: return   # the index was hit: it cannot be opened, and says so
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    for frame in frames: assert frame.time_s == pytest.approx(frame.index / 25, abs=0.05)
    if len(frames) < 60: assert reader.losses


def test_joined_recordings_whose_clock_starts_again(tmp_path):
    first, second = (encode(tmp_path / f'{i}.ts', count=100, start=100 * i) for i in range(2))
    (tmp_path / 'joined.ts').write_bytes(first.read_bytes() + second.read_bytes())
    with VideoReader(tmp_path / 'joined.ts') as reader: frames = list(reader)
    numbers = [number_in(frame.image) for frame in frames]
    assert numbers == sorted(numbers) and len(set(numbers)) > 190
    assert all(later.time_s > sooner.time_s for sooner, later in zip(frames, frames[1:]))
    assert any('clock' in loss.reason for loss in reader.losses)
    assert [number_in(frame.image) for frame in read_frames(tmp_path / 'joined.ts', 5)] == wanted_of(frames, 5)


@given(st.lists(st.floats(0.001, 2), min_size=1, max_size=60), st.floats(0.2, 60))
def test_grid_never_repeats_and_keeps_the_rate(gaps, fps):
    times = np.cumsum(gaps)
    grid = Grid(fps, 0.0, None)
    chosen = [time_s for time_s in times if grid.wants(time_s)]
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= times[-1] * fps + 2
    cells = [int(time_s * fps) for time_s in chosen]
    assert len(cells) - len(set(cells)) <= 1   # one a cell, but for rounding at its edge


def test_folder_of_pictures_of_two_videos(tmp_path):
    for name in ('a_000001.png', 'b_000001.png'): cv2.imwrite(str(tmp_path / name), numbered(1))
    with pytest.raises(VQAError, match='pictures of 2 videos'): VideoReader(tmp_path).__iter__().__next__()


def test_sound_without_pictures(tmp_path):
    with av.open(str(tmp_path / 'sound.wav'), 'w') as output:
        stream = output.add_stream('pcm_s16le', rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout='mono')
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    with pytest.raises(VQAError, match='no picture track'): list(read_frames(tmp_path / 'sound.wav'))


def test_closing_early_frees_the_file(tmp_path):
    path = write(tmp_path / 'video.mp4', np.arange(50) / 25)
    for frame in read_frames(path):
        if frame.index == 3: break
    path.unlink()
    assert list_videos(tmp_path) == []
    assert Path(tmp_path).exists()
