"The key of cached features: other pictures have other keys, also when their bytes are the same in another shape"
import numpy as np

from paligemma_vqa.training.features import picture_key


def test_the_shape_belongs_to_the_key():
    flat, tall, wide = (np.zeros(shape, np.uint8) for shape in ((4, 4, 3), (8, 2, 3), (2, 8, 3)))
    assert len({picture_key(picture) for picture in (flat, tall, wide)}) == 3
    assert picture_key(flat) == picture_key(flat.copy())
