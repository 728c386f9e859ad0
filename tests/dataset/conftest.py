"""What several tests of data sets need"""
import json

import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    "Pictures whose names are those that the cases speak of; of one video the moments are known"
    root, lines = tmp_path / 'data', []
    (root / 'images').mkdir(parents=True)
    for name in [f'scene_000_{frame:06d}' for frame in (0, 10, 20)] + ['a_000030', 'a_000040'] + [f'op1_{frame:06d}' for frame in range(0, 500, 25)]:
        Image.new('RGB', (8, 8)).save(root / f'images/{name}.jpg')
        video, _, frame = name.rpartition('_')
        if video == 'op1': lines.append(json.dumps(dict(image=f'images/{name}.jpg', video=video, frame_index=int(frame), time_s=int(frame) / 25)))
    (root / 'frames.jsonl').write_text('\n'.join(lines))
    return root
