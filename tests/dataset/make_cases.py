"""Made the files `cases/cvat_*.xml`, `coco_*.json` and `elan_*.eaf`, with datumaro and pympi themselves

    pip install --target TOOLS datumaro==1.9.1 pympi-ling==1.71 && PYTHONPATH=TOOLS python tests/dataset/make_cases.py
"""
import shutil, tempfile
from pathlib import Path

import numpy as np

CASES = Path(__file__).parent / 'cases'
SAID = {'scene_000_000000': {'A': '2', 'B': '3'}, 'scene_000_000010': {'C': '1'}, 'scene_000_000020': {}}


def with_datumaro():
    from datumaro.components.annotation import Bbox, Label
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image
    def items(make): return [DatasetItem(id=name, media=Image.from_numpy(data=np.zeros((24, 32, 3), np.uint8)), annotations=[make('ABC'.index(event), phase) for event, phase in said.items()],
                                         attributes={'frame': n}) for n, (name, said) in enumerate(SAID.items())]
    for format, options, make, pattern, name in (('cvat', dict(allow_undeclared_attrs=True), lambda label, phase: Label(label, attributes={'phase': phase}), '*.xml', 'cvat_datumaro.xml'),
                                        ('coco_instances', {}, lambda label, phase: Bbox(1, 2, 8, 9, label=label, attributes={'phase': phase}), 'instances*.json', 'coco_datumaro.json')):
        folder = Path(tempfile.mkdtemp())
        Dataset.from_iterable(items(make), categories=['A', 'B', 'C']).export(str(folder / 'out'), format, **options)
        [written] = (folder / 'out').rglob(pattern)
        shutil.copy(written, CASES / name)


def with_pympi():
    from pympi.Elan import Eaf
    eaf = Eaf()
    eaf.add_linked_file('file:///D:/videos/op1.mp4', relpath='./op1.mp4', mimetype='video/mp4')
    for tier, intervals in dict(A=[(1000, 3000, '1'), (3000, 3500, '2')], B=[(3000, 3500, '3')]).items():
        eaf.add_tier(tier)
        for interval in intervals: eaf.add_annotation(tier, *interval)
    eaf.remove_tier('default')
    eaf.to_file(str(CASES / 'elan_pympi.eaf'))


if __name__ == '__main__':
    with_datumaro()
    with_pympi()
