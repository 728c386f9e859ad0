"Files of every kind, made by `zoo.py`: each picture that was put in is read, or told as lost"
import shutil
import subprocess

import pytest
from media.zoo import ANIMALS, differences, make

pytestmark = pytest.mark.skipif(not shutil.which('ffmpeg'), reason='ffmpeg makes the files')


@pytest.fixture(scope='session')
def encoders(): return subprocess.run(['ffmpeg', '-v', 'quiet', '-encoders'], capture_output=True, text=True).stdout


@pytest.mark.parametrize('name', [pytest.param(name, marks=[] if animal.is_quick else [pytest.mark.slow]) for name, animal in ANIMALS.items()])
def test_nothing_is_lost_in_silence(name, tmp_path, encoders):
    words = ANIMALS[name].encode.split()
    if '-c:v' in words and f" {words[words.index('-c:v') + 1]} " not in encoders: pytest.skip('this ffmpeg cannot encode it')
    assert differences(ANIMALS[name], make(ANIMALS[name], tmp_path)) == []
