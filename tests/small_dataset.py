"""A labelled folder of flat coloured pictures: the colour says the answer, so a small model can learn it."""
from pathlib import Path

import numpy as np
from PIL import Image

from paligemma_vqa.dataset.records import Record, write_records
from paligemma_vqa.schema import EventSchema

ANNOTATIONS = ({}, {'A': '1'}, {'B': '3', 'C': '2'})


def make_folder(folder:Path, videos:int=6, frames:int=6, size:int=28, schema:EventSchema=EventSchema(), seed:int=0,
                answer_format:str|None=None) -> Path:
    rng = np.random.default_rng(seed)
    (folder / 'images').mkdir(parents=True)
    records = []
    for video in range(videos):
        for frame in range(frames):
            kind = int(rng.integers(len(ANNOTATIONS)))
            pixels = np.full((size, size, 3), 20 + 100 * kind, np.uint8) + rng.integers(0, 20, (size, size, 3), dtype=np.uint8)
            name = f'images/video{video}_{frame:06d}.png'
            Image.fromarray(pixels).save(folder / name)
            records.append(Record(image=name, question=schema.question(), answer=schema.render(ANNOTATIONS[kind], answer_format)))
    write_records(folder / 'labels.jsonl', records)
    schema.save(folder / 'schema.json')
    return folder
