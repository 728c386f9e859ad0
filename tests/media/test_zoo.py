"Files of every kind, made by `zoo.py`: each picture that was put in is read, or told as lost"
import shutil
import subprocess

import pytest
from media.zoo import ANIMALS, X264, differences, encode, make

from paligemma_vqa.media.reading import VideoReader

pytestmark = pytest.mark.skipif(not shutil.which('ffmpeg'), reason='ffmpeg makes the files')


@pytest.fixture(scope='session')
def encoders(): return subprocess.run(['ffmpeg', '-v', 'quiet', '-encoders'], capture_output=True, text=True).stdout


@pytest.mark.parametrize('name', [pytest.param(name, marks=[] if animal.is_quick else [pytest.mark.slow]) for name, animal in ANIMALS.items()])
def test_nothing_is_lost_in_silence(name, tmp_path, encoders):
    words = ANIMALS[name].encode.split()
    if '-c:v' in words and f" {words[words.index('-c:v') + 1]} " not in encoders: pytest.skip('this ffmpeg cannot encode it')
    assert differences(ANIMALS[name], make(ANIMALS[name], tmp_path)) == []


def test_a_stream_that_goes_on_under_another_number_is_told(tmp_path):
    parts = [encode(tmp_path / f'{i}.ts', X264 + f'-streamid 0:{300 + i} -output_ts_offset {i}', 15, start=15 * i) for i in range(2)]
    (tmp_path / 'both.ts').write_bytes(b''.join(part.read_bytes() for part in parts))
    with VideoReader(tmp_path / 'both.ts') as reader: assert len(list(reader)) == 15
    assert any('of the file hold no picture of this track' in loss.reason for loss in reader.losses)
    with VideoReader(parts[0]) as reader: list(reader)
    assert not reader.losses
