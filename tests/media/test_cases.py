"Recordings as they come out of the theatre: each file of `cases` broke an earlier version"
from pathlib import Path

import numpy as np
import pytest

from paligemma_vqa.media.folders import look_into
from paligemma_vqa.media.reading import VideoReader, frame_at, read_frames, video_info
from paligemma_vqa.schema import VQAError

CASES = Path(__file__).parent / 'cases'


def everything(name, **options):
    with VideoReader(CASES / name, **options) as reader: moments = [(index, time_s) for index, time_s, _ in reader.moments()]
    return moments, reader.losses


@pytest.mark.parametrize('name,start_s,end_s,count', [
    ('late_video.mp4', 10, 14, 100), ('audio_first.ts', 1.023, 5.023, 100), ('joined_0_then_0.ts', 0, 8, 200), ('bframes.avi', 0, 4, 100),
    ('timelapse.mp4', 0, 1800, 30), ('twotracks.mp4', 0, 2, 50), ('sar_pal169.mp4', 0, 1, 25), ('hd709_untagged.mp4', 0, 1, 10),
    ('mpeg2i.vob', 0, 4, 100), ('anim.gif', 0, 2, 20), ('multi_h264.dcm', 0, 4, 100)])
def test_every_picture_on_one_clock(name, start_s, end_s, count):
    if name.endswith('.dcm'): pytest.importorskip('pydicom')
    moments, losses = everything(name)
    info = video_info(CASES / name)
    assert [index for index, _ in moments] == list(range(count))
    assert (info.start_s, info.duration_s) == (pytest.approx(start_s, abs=1e-3), pytest.approx(end_s, abs=1e-3))
    assert info.clock.end_s == info.duration_s
    assert (moments[0][1], moments[-1][1]) == (pytest.approx(start_s, abs=1e-3), pytest.approx(end_s - (end_s - start_s) / count, abs=1e-3))
    assert np.allclose(np.diff([time_s for _, time_s in moments]), (end_s - start_s) / count, atol=2e-3)
    lost = [loss for loss in losses if loss.end_s > loss.start_s]
    assert not lost and (len(losses) == 1) == (name == 'joined_0_then_0.ts')   # the clock that starts again is told


@pytest.mark.parametrize('name', ['joined_0_then_0.ts', 'bframes.avi', 'mpeg2i.vob', 'audio_first.ts', 'timelapse.mp4'])
def test_a_start_in_the_middle_gives_the_same_pictures_with_the_same_numbers(name):
    whole, _ = everything(name)
    for start_s in (1.5, 3.0): assert everything(name, start_s=start_s)[0] == [moment for moment in whole if moment[1] >= start_s - 1e-6]
    sampled, _ = everything(name, fps=5)
    assert everything(name, fps=5, after_s=sampled[7][1])[0] == sampled[8:]


def test_a_hole_in_a_transport_stream_is_told():
    truth = [frame.image for frame in read_frames(CASES / 'joined_0_then_0.ts', end_s=4)]   # the same picture, whole
    with VideoReader(CASES / 'ts_hole.ts') as reader: frames = list(reader)
    for frame in frames: assert np.abs(frame.image.astype(int) - truth[round(frame.time_s * 25)]).mean() < 1
    for number in range(100):   # every moment is looked at, or told
        time_s = number / 25
        assert any(abs(frame.time_s - time_s) < 0.01 for frame in frames) or any(l.start_s - 0.01 <= time_s <= l.end_s for l in reader.losses), time_s


def test_a_recording_that_ended_at_once_is_one_clear_line():
    with pytest.raises(VQAError, match='init_only.mp4: there is no picture in it') as error: video_info(CASES / 'init_only.mp4')
    assert error.value.exit_code == 2
    assert list(read_frames(CASES / 'init_only.mp4')) == []


def test_the_largest_track_unless_another_is_named():
    assert (video_info(CASES / 'twotracks.mp4').width, video_info(CASES / 'twotracks.mp4').tracks) == (320, 2)
    assert video_info(CASES / 'twotracks.mp4', track=1).width == 160
    assert frame_at(CASES / 'twotracks.mp4', 1, track=1).image.shape == (120, 160, 3)
    with pytest.raises(VQAError, match='there is no picture track 3'): video_info(CASES / 'twotracks.mp4', track=3)


@pytest.mark.parametrize('name', ['sar_pal169.mp4', 'mpeg2i.vob'])
def test_pixels_that_are_not_square(name):
    assert frame_at(CASES / name, 0.5).image.shape == (576, 1024, 3)
    assert frame_at(CASES / name, 0.5, max_height=288).image.shape == (288, 512, 3)


def test_high_definition_without_colour_tags():
    av, Colorspace = pytest.importorskip('av'), __import__('av.video.reformatter', fromlist=['Colorspace']).Colorspace
    with av.open(str(CASES / 'hd709_untagged.mp4')) as container: frame = next(container.decode(video=0))
    right = frame.to_ndarray(format='rgb24', src_colorspace=Colorspace.ITU709)
    assert np.abs(frame.to_ndarray(format='rgb24').astype(int) - right).max() > 10   # how it was read
    assert np.array_equal(frame_at(CASES / 'hd709_untagged.mp4', 0).image, right)


def test_interlaced_pictures_have_no_comb():
    def comb(image):   # how much neighbouring lines differ more than lines two apart
        gray = image.astype(int).mean(-1)
        return (np.abs(np.diff(gray, axis=0)).mean() - np.abs(gray[2:] - gray[:-2]).mean())
    av = pytest.importorskip('av')
    with av.open(str(CASES / 'mpeg2i.vob')) as container: stored = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
    shown = [frame.image for frame in read_frames(CASES / 'mpeg2i.vob')]
    assert len(shown) == len(stored) == 100
    assert np.mean([comb(image) for image in shown[10:60:10]]) < np.mean([comb(image) for image in stored[10:60:10]]) - 0.5
    sampled = list(read_frames(CASES / 'mpeg2i.vob', fps=5))   # leaving pictures out changes none
    for frame in sampled: assert np.array_equal(frame.image, shown[frame.index])


def test_a_folder_tells_recordings_from_stills():
    names = {path.name for path in look_into(CASES).videos}
    assert names == {path.name for path in CASES.iterdir()}


def test_a_name_with_colons(tmp_path, monkeypatch):
    (tmp_path / '12:30:05.mp4').write_bytes((CASES / 'late_video.mp4').read_bytes())
    monkeypatch.chdir(tmp_path)
    assert video_info('12:30:05.mp4').duration_s == pytest.approx(14)


def test_what_dicom_needs_is_said_and_the_patient_stays_inside(tmp_path, monkeypatch):
    pytest.importorskip('pydicom')
    assert 'Patient' not in repr(video_info(CASES / 'multi_h264.dcm'))
    import sys
    monkeypatch.setitem(sys.modules, 'pydicom', None)
    with pytest.raises(VQAError, match=r'pip install "paligemma_vqa\[dicom\]"'): video_info(CASES / 'multi_h264.dcm')


DICOM = {   # how the numbers of a picture are written -> what has to be seen is the same
    'MONOCHROME1': lambda gray: (255 - gray, dict(PhotometricInterpretation='MONOCHROME1')),
    'ten bits': lambda gray: (gray.astype(np.uint16) * 4, dict(BitsAllocated=16, BitsStored=10)),
    'twelve bits': lambda gray: (gray.astype(np.uint16) * 16, dict(BitsAllocated=16, BitsStored=12)),
    'sixteen bits': lambda gray: (gray.astype(np.uint16) * 257, dict(BitsAllocated=16, BitsStored=16)),
    'signed, in a window': lambda gray: (gray.astype(np.int16) * 4 - 512, dict(
        BitsAllocated=16, BitsStored=12, PixelRepresentation=1, RescaleSlope='1', RescaleIntercept='-512', WindowCenter='-512', WindowWidth='1024')),
    'palette': lambda gray: ((gray > 100).astype(np.uint8), dict(PhotometricInterpretation='PALETTE COLOR', **{
        f'{color}PaletteColorLookupTable{part}': value for color in ('Red', 'Green', 'Blue')
        for part, value in (('Descriptor', [2, 0, 16]), ('Data', np.array([20 * 257, 200 * 257], np.uint16).tobytes()))})),
}


@pytest.mark.parametrize('kind', DICOM)
def test_numbers_of_a_dicom_picture_mean_what_its_header_says(kind, tmp_path):
    pydicom = pytest.importorskip('pydicom')
    gray = np.where(np.indices((4, 24, 32)).sum(0) % 16 < 8, 20, 200).astype(np.uint8)
    pixels, header = DICOM[kind](gray)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = pydicom.uid.ExplicitVRLittleEndian, '1.2.840.10008.5.1.4.1.1.77.1.1.1'
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset = pydicom.dataset.FileDataset(tmp_path / 'a.dcm', {}, file_meta=meta, preamble=bytes(128))
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = gray.shape
    for name, value in dict(SamplesPerPixel=1, PhotometricInterpretation='MONOCHROME2', BitsAllocated=8, BitsStored=8, PixelRepresentation=0, FrameTime=40,
                            PatientName='Doe^Jane').items(): setattr(dataset, name, value)
    for name, value in header.items(): setattr(dataset, name, value)
    dataset.HighBit, dataset.PixelData = dataset.BitsStored - 1, pixels.tobytes()
    dataset.save_as(tmp_path / 'a.dcm')
    frames = list(read_frames(tmp_path / 'a.dcm'))
    assert len(frames) == 4 and all(np.abs(frame.image.astype(int) - gray[frame.index][..., None]).max() <= 2 for frame in frames)


@pytest.mark.parametrize('name', ['late_video.mp4', 'timelapse.mp4'])
def test_what_is_joined_behind_an_index_is_told(name, tmp_path):
    "FFmpeg stops where the first one ends; players show half of it, and so do we, but not in silence"
    once, twice = CASES / name, tmp_path / name
    twice.write_bytes(once.read_bytes() * 2)
    with VideoReader(twice) as reader: count = sum(1 for _ in reader.moments())
    assert count == len(everything(name)[0])
    assert [loss.reason for loss in reader.losses] == [
        f'another recording is joined behind it, at 50% of the file, and is not read: split the file at byte {once.stat().st_size}']
    with VideoReader(twice, end_s=11) as reader: list(reader.moments())
    assert not reader.losses   # whoever asks for a part does not miss the rest
