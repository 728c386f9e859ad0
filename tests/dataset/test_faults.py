"""Everything that can be wrong with a picture, a record, a split or an example is one line that names it."""
import gzip, io, json, os, re, struct, warnings, zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from random_base import make_tokenizer
from transformers import PaliGemmaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from paligemma_vqa.training.collator import Collator, encode
from paligemma_vqa.dataset.loading import Records, load_dataset
from paligemma_vqa.model.prompt import format_prompt
from paligemma_vqa.dataset.balance import sampling_weights
from paligemma_vqa.training.augment import Augmentation
from paligemma_vqa.media.images import open_image
from paligemma_vqa.model.pixels import processor_image_size
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.dataset.looks import perceptual_hash

SCHEMA = EventSchema()
RANDOM = np.random.default_rng(0)
PICTURE = Image.fromarray(RANDOM.integers(0, 256, (48, 64, 3), dtype=np.uint8))


def one_line(call) -> str:
    with pytest.raises(VQAError) as caught: call()
    text = str(caught.value)
    assert '\n' not in text and len(text) < 500, text
    assert caught.value.exit_code in (1, 2)
    return text


def encoded(kind, picture=PICTURE, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind:bytes, content:bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def png(width, height, pixels=b'') -> bytes:
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + png_chunk(b'IHDR', header) + png_chunk(b'IDAT', zlib.compress(pixels)) + png_chunk(b'IEND', b'')


def damaged(content:bytes, at:int) -> bytes: return content[:at] + bytes(255 - b for b in content[at:at + 40]) + content[at + 40:]


UNREADABLE, BROKEN = 'not a picture that can be read', 'the picture is broken'
PICTURES = {
    'empty file': (b'', 'the file is empty'),
    'text': (b'no picture here', UNREADABLE),
    'web page': (b'<!DOCTYPE html><html><body>404</body></html>', UNREADABLE),
    'git lfs pointer': (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n', UNREADABLE),
    'svg': (b'<svg xmlns="http://www.w3.org/2000/svg"/>', UNREADABLE),
    'pdf': (b'%PDF-1.4\n%%EOF', UNREADABLE),
    'postscript': (encoded('EPS'), UNREADABLE),
    'video': (b'\0\0\0\x18ftypmp42' + bytes(64), UNREADABLE),
    'zip': (b'PK\x03\x04' + bytes(64), UNREADABLE),
    'array file': (b'\x93NUMPY' + bytes(64), UNREADABLE),
    'zeros': (bytes(4096), UNREADABLE),
    'jpeg cut early': (encoded('JPEG')[:20], None),
    'jpeg cut': (encoded('JPEG')[:-400], BROKEN),
    'jpeg header only': (b'\xff\xd8\xff\xe0', None),
    'png cut': (encoded('PNG')[:-3000], BROKEN),
    'png signature only': (b'\x89PNG\r\n\x1a\n', None),
    'png with a damaged header': (damaged(encoded('PNG'), 16), None),
    'png with damaged pixels': (damaged(encoded('PNG'), 41), BROKEN),
    'png without pixels': (png(10, 10), BROKEN),
    'png of no width': (png(0, 10), None),
    'gif cut': (encoded('GIF')[:200], None),
    'webp cut': (encoded('WEBP')[:100], None),
    'tiff cut': (encoded('TIFF')[:60], None),
    'tiff without pixels': (encoded('TIFF')[:8], None),
    'bmp cut': (encoded('BMP')[:300], BROKEN),
    'ppm of words': (b'P6\nten ten\n255\n', None),
    'jpeg 2000 cut': (encoded('JPEG2000')[:200], None),
    'bomb': (encoded('PNG', Image.new('1', (12_000, 12_000))), r'12000 × 12000 pixels, and the limit is'),
    'large bomb': (encoded('PNG', Image.new('1', (20_000, 20_000))), 'and the limit is'),
    'png that claims to be huge': (png(2**31 - 1, 2**31 - 1), None),
    'gif that claims to be huge': (encoded('GIF')[:6] + b'\xff\xff\xff\xff' + encoded('GIF')[10:], None),
    '32-bit integers': (encoded('TIFF', Image.fromarray(np.arange(100, dtype=np.int32).reshape(10, 10))), '32-bit integers'),
    'floats': (encoded('TIFF', Image.fromarray(np.ones((9, 9), np.float32))), '32-bit floats'),
}


@pytest.mark.parametrize('kind', PICTURES)
def test_broken_picture(kind, tmp_path):
    content, expected = PICTURES[kind]
    path = tmp_path/'case1_000063.jpg'
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter('error')   # one line means no warning beside it
        for call in (lambda: open_image(path), lambda: open_image(dict(path=str(path), bytes=None)), lambda: open_image(dict(path=str(path), bytes=content))):
            text = one_line(call)
            assert text.startswith(str(path)) and text.count('. ') >= 1
            if expected: assert re.search(expected, text), text


GIVEN = {
    'missing': (lambda d: d/'gone.jpg', 'there is no such picture'),
    'folder': (lambda d: d, 'a folder, not a picture'),
    'dangling link': (lambda d: link(d, d/'nowhere.jpg'), 'there is no such picture'),
    'link to itself': (lambda d: link(d, d/'link.jpg'), 'broken'),
    'name too long': (lambda d: d/('x' * 300 + '.jpg'), 'broken'),
    'name with a zero': (lambda d: 'a\0b.jpg', 'broken'),
    'nothing': (lambda d: None, 'a NoneType is not a picture'),
    'number': (lambda d: 7, 'a int is not a picture'),
    'floats': (lambda d: np.zeros((4, 4, 3)), 'an array of float64 has no known range'),
    'booleans': (lambda d: np.zeros((4, 4), bool), 'an array of bool'),
    'signed': (lambda d: np.zeros((4, 4), np.int64), 'an array of int64'),
    'channels first': (lambda d: np.zeros((3, 40, 40), np.uint8), 'an array of shape (3, 40, 40)'),
    'two channels': (lambda d: np.zeros((4, 4, 2), np.uint8), 'an array of shape (4, 4, 2)'),
    'a batch': (lambda d: np.zeros((2, 4, 4, 3), np.uint8), 'an array of shape (2, 4, 4, 3)'),
    'no pixels': (lambda d: np.zeros((0, 4, 3), np.uint8), 'no pixels'),
    'too many pixels': (lambda d: np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)), 'and the limit is'),
}


def link(folder, target):
    (folder/'link.jpg').symlink_to(target)
    return folder/'link.jpg'


@pytest.mark.parametrize('kind', GIVEN)
def test_no_picture(kind, tmp_path):
    make, expected = GIVEN[kind]
    assert expected in one_line(lambda: open_image(make(tmp_path)))


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may read everything')
def test_forbidden_picture(tmp_path):
    PICTURE.save(tmp_path/'a.png')
    (tmp_path/'a.png').chmod(0)
    assert 'may not be read' in one_line(lambda: open_image(tmp_path/'a.png'))


def record(**changes) -> str:
    values = dict(image='images/v_1.png', question=SCHEMA.question(), answer=SCHEMA.render({'A': '1'})) | changes
    return json.dumps({key: value for key, value in values.items() if value is not ...}, ensure_ascii=False)


def folder_with(folder:Path, second_line:str|bytes) -> Path:
    (folder/'images').mkdir(exist_ok=True)
    PICTURE.save(folder/'images/v_1.png')
    second_line = second_line.encode() if isinstance(second_line, str) else second_line
    (folder/'labels.jsonl').write_bytes(record().encode() + b'\n' + second_line + b'\n')
    return folder


def write(folder, **files):
    folder_with(folder, '')
    for name, content in files.items():
        path = folder/name.replace('__', '.')
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


FOLDERS = {
    'no folder': (lambda d: load_dataset(d/'gone'), 'there is no such folder'),
    'no labels': (lambda d: load_dataset(d), 'there is no labels.jsonl'),
    'empty labels': (lambda d: load_dataset(write(d, labels__jsonl='')), 'has no records'),
    'blank labels': (lambda d: load_dataset(write(d, labels__jsonl='\n \n\n')), 'has no records'),
    'not UTF-8': (lambda d: load_dataset(folder_with(d, record(answer='é').encode('utf-16'))), 'labels.jsonl:2: '),
    'latin 1': (lambda d: load_dataset(folder_with(d, b'{"image": "images/\xe9.png"}')), 'not UTF-8'),
    'gzip of nothing': (lambda d: list(Records(write(d, labels__jsonl__gz=b'')/'labels.jsonl.gz')), 'no records'),
    'gzip broken': (lambda d: list(Records(write(d, labels__jsonl__gz=b'\x1f\x8bxxxx')/'labels.jsonl.gz')), 'labels.jsonl.gz: '),
    'gzip cut': (lambda d: list(Records(write(d, labels__jsonl__gz=gzip.compress(record().encode() * 500)[:60])/'labels.jsonl.gz')), 'broken'),
    'not gzip': (lambda d: list(Records(write(d, labels__jsonl__gz=record())/'labels.jsonl.gz')), 'the compressed file is broken'),
    'schema torn': (lambda d: load_dataset(write(d, schema__json='{"events": ["A"')), 'schema.json:1: not JSON'),
    'schema without events': (lambda d: load_dataset(write(d, schema__json='{"events": []}')), 'schema.json: the schema has no events'),
    'splits torn': (lambda d: load_dataset(write(d, splits__json='{')), 'splits.json: not JSON'),
    'looks of a broken picture': (lambda d: perceptual_hash(write(d, a__png=encoded('PNG')[:90])/'a.png'), 'a.png: the picture is broken'),
    'looks of no picture': (lambda d: perceptual_hash(d/'a.png'), 'there is no such picture'),
    'parquet broken': (lambda d: load_dataset(write(d/'p', a__parquet=b'PAR1xxxxPAR1')/'a.parquet'), 'the Parquet files cannot be read'),
    'no such hub dataset': (lambda d: load_dataset('nobody/nothing'), 'cannot be fetched'),
}


@pytest.mark.parametrize('kind', FOLDERS)
def test_wrong_folder(kind, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    (tmp_path/'p').mkdir()
    call, expected = FOLDERS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        assert expected in one_line(lambda: call(tmp_path))


@pytest.fixture(scope='module')
def processor():
    images = SiglipImageProcessorPil(size=dict(height=28, width=28))
    images.image_seq_length = 4
    return PaliGemmaProcessor(images, make_tokenizer())


def example(**changes): return dict(image=PICTURE, question=SCHEMA.question(), answer=SCHEMA.render({}), video='v', frame_index=3) | changes


EXAMPLES = {
    'no answer': (lambda p: Collator(p)([example(answer=None)]), 'v frame 3: the example has no answer'),
    'answers for some': (lambda p: Collator(p, train=False)([example(), example(answer=None)]), 'has no answer'),
    'empty answer': (lambda p: Collator(p)([example(answer=' \n')]), 'v frame 3: the answer is empty'),
    'empty question': (lambda p: Collator(p)([example(question='answer en')]), 'v frame 3: the question is empty'),
    'end in the answer': (lambda p: Collator(p)([example(answer='A: 1<eos>')]), "special token '<eos>'"),
    'picture in the answer': (lambda p: Collator(p)([example(answer='<image>')]), "special token '<image>'"),
    'padding in the answer': (lambda p: encode(p, 'q', 'a <pad>'), "special token '<pad>'"),
    'too long': (lambda p: Collator(p, max_length=20)([example()]), 'v frame 3: question and answer are'),
    'too long a question': (lambda p: Collator(p, train=False, max_length=20)([example(answer=None)]), 'and the limit is 20'),
    'broken picture': (lambda p: Collator(p)([example(image=b'x')]), 'v frame 3: this is not a picture'),
    'missing picture': (lambda p: Collator(p)([example(image=dict(path='gone.jpg', bytes=None))]), 'gone.jpg: there is no such picture'),
    'augmented features': (lambda p: Collator(p, augment=Augmentation(), features=object()), 'without augmentation'),
    'another mean': (lambda p: processor_image_size(SiglipImageProcessorPil(image_mean=[0, 0, 0])), '(mean)'),
    'another filter': (lambda p: processor_image_size(SiglipImageProcessorPil(resample=2)), '(bicubic)'),
    'not a square': (lambda p: processor_image_size(SiglipImageProcessorPil(size=dict(height=2, width=4))), '(square)'),
    'probability': (lambda p: Augmentation(color=1.5), 'the probability of color is 1.5'),
    'strength': (lambda p: Augmentation(strength=-1), 'the strength is -1'),
    'flip': (lambda p: Augmentation(flips=('diagonal',)), "unknown flip 'diagonal'"),
    'weights of nothing': (lambda p: sampling_weights([], SCHEMA), 'no rows'),
    'weights too strong': (lambda p: sampling_weights([example()], SCHEMA, 2), 'the strength is 2'),
    'only specials': (lambda p: format_prompt('<image><bos>'), 'the question is empty'),
}


@pytest.mark.parametrize('kind', EXAMPLES)
def test_wrong_example(kind, processor):
    call, expected = EXAMPLES[kind]
    assert expected in one_line(lambda: call(processor))
