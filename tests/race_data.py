"""Two labelled data sets that no base, preset or test of this package was made for, out of scikit-image's photographs.

`things`: shapes, stripes, digits and rings come and go on a photograph under a moving camera,
with another look each time.
`changes`: two pictures of one place side by side; what was added, removed or moved on the right, and by how much.

Forty videos of 32 frames each, split by video. `python tests/race_data.py things FOLDER` writes one.
"""
import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

from paligemma_vqa.dataset.records import Record, write_records
from paligemma_vqa.dataset.splits import Splits, write_splits
from paligemma_vqa.schema import EventSchema

SCHEMAS = {'things': EventSchema(events=('shape', 'stripes', 'digit', 'ring'), phases=('small', 'medium', 'large')),
           'changes': EventSchema(events=('added', 'removed', 'moved'), phases=('little', 'much'))}
PHOTOGRAPHS = ('astronaut', 'brick', 'camera', 'chelsea', 'coffee', 'coins', 'grass', 'gravel', 'hubble_deep_field',
               'immunohistochemistry', 'moon', 'page', 'rocket', 'retina')
VIDEOS, FRAMES, SIZE = 40, 32, 160


def photograph(name):
    picture = getattr(data, name)()
    picture = np.stack([picture] * 3, -1) if picture.ndim == 2 else picture[..., :3]
    scale = 400 / min(picture.shape[:2])
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def crop(picture, centre, side, size):
    "A square around `centre` (of the free room, 0 to 1), resized"
    rows, columns = picture.shape[:2]
    top, left = int(centre[0] * (rows - side)), int(centre[1] * (columns - side))
    return cv2.resize(picture[top:top + side, left:left + side], (size, size), interpolation=cv2.INTER_AREA)


def draw(picture, kind, centre, radius, colour, style):
    "One thing, in place; `style`: which of its looks"
    x, y = (int(round(value)) for value in centre)
    if kind == 'shape':
        corners = 3 + style % 4
        angles = np.arange(corners) * 2 * np.pi / corners + style
        points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
        cv2.fillPoly(picture, [points.round().astype(np.int32)], colour, cv2.LINE_AA)
    elif kind == 'ring':
        cv2.circle(picture, (x, y), int(radius * .85), colour, max(2, int(radius * .3)), cv2.LINE_AA)
    elif kind == 'digit':
        text, scale = str(style % 10), radius / 11
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, max(2, int(radius / 5)))
        cv2.putText(picture, text, (x - width // 2, y + height // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, colour,
                    max(2, int(radius / 5)), cv2.LINE_AA)
    else:
        rows, columns = np.mgrid[:picture.shape[0], :picture.shape[1]]
        across = (columns - x) * np.cos(style) + (rows - y) * np.sin(style)
        inside = (abs(columns - x) < radius) & (abs(rows - y) < radius)
        picture[inside & (across % 10 < 5)] = colour


def a_colour(rng):
    "Far from grey"
    return tuple(int(v) for v in cv2.cvtColor(np.uint8([[[rng.integers(180), rng.integers(170, 256),
                                                          rng.integers(170, 256)]]]), cv2.COLOR_HSV2RGB)[0, 0])


def come_and_go(rng, events, phases, frames):
    """(codes, number of the appearance), each [frames, events]: an event is away for a while, then there for a while,
    in a phase that may grow once"""
    codes, numbers = np.zeros((2, frames, events), int)
    for event in range(events):
        start, number = int(rng.integers(0, 9)), 0
        while start < frames:
            stop, phase, grows = start + int(rng.integers(3, 8)), int(rng.integers(1, phases + 1)), rng.random() < .5
            for t in range(start, min(frames, stop)):
                codes[t, event] = min(phases, phase + (grows and t >= (start + stop) // 2))
                numbers[t, event] = number
            start, number = stop + int(rng.integers(2, 10)), number + 1
    return codes, numbers


def things_video(rng, picture, schema):
    "(codes, picture) of each frame"
    codes, numbers = come_and_go(rng, len(schema.events), len(schema.phases), FRAMES)
    begin, end, side = rng.random(2), rng.random(2), int(rng.integers(200, 330))
    corners = rng.permutation([(.28, .28), (.28, .72), (.72, .28), (.72, .72)])
    looks = [[(a_colour(rng), int(rng.integers(100)), rng.normal(0, .02, 2)) for _ in range(FRAMES)]
             for _ in schema.events]
    for t, now in enumerate(codes):
        share = t / (FRAMES - 1)
        frame = crop(picture, begin + share * (end - begin), side, SIZE)
        for event, phase in enumerate(now):
            if not phase: continue
            colour, style, drift = looks[event][numbers[t, event]]
            centre = (np.array(corners[event]) + drift * (t % 8) / 4 + rng.normal(0, .01, 2)) * SIZE
            radius = (11, 19, 31)[phase - 1] * rng.uniform(.92, 1.08)
            draw(frame, schema.events[event], np.clip(centre, 34, SIZE - 34), radius, colour, style)
        yield now, frame


def changes_video(rng, picture, schema):
    "(codes, picture) of each frame; left the place as it was, right as it is, in slightly other light"
    codes, numbers = come_and_go(rng, len(schema.events), len(schema.phases), FRAMES)
    begin, end, side = rng.random(2), rng.random(2), int(rng.integers(200, 330))
    spots = rng.permutation([(.25, .25), (.25, .75), (.75, .25), (.75, .75)]) * SIZE
    def look():
        return (a_colour(rng), int(rng.integers(100)), str(rng.choice(['shape', 'ring', 'digit'])),
                rng.uniform(0, 2 * np.pi))
    looks = [[look() for _ in range(FRAMES)] for _ in schema.events]
    for t, now in enumerate(codes):
        place = crop(picture, begin + t / (FRAMES - 1) * (end - begin), side, SIZE)
        before, other_light = place.copy(), place * rng.uniform(.9, 1.1) + rng.normal(0, 2, place.shape)
        after = np.clip(other_light, 0, 255).astype(np.uint8)
        def put(on, which, at, much):
            colour, style, kind, _ = looks[which][numbers[t, which]]
            draw(on, kind, at, (13, 25)[much] * rng.uniform(.95, 1.05), colour, style)
        added, removed, moved = now
        if added: put(after, 0, spots[0], added - 1)
        if removed: put(before, 1, spots[1], removed - 1)
        put(before, 2, spots[2], 0)
        way, far = looks[2][numbers[t, 2]][-1], (moved > 0) * (18, 45)[moved - 1]
        put(after, 2, np.clip(spots[2] + far * np.array([np.cos(way), np.sin(way)]), 14, SIZE - 14), 0)
        yield now, np.hstack([before, after])


def make(name:str, folder:Path, seed:int=0, videos:int=VIDEOS) -> Path:
    "Write the data set `name`; 26 of 40 videos to learn from, 5 to choose by, 9 to test on"
    folder, schema = Path(folder), SCHEMAS[name]
    (folder / 'images').mkdir(parents=True)
    make_video, records = dict(things=things_video, changes=changes_video)[name], []
    pictures = [photograph(one) for one in PHOTOGRAPHS]
    for video in range(videos):
        rng = np.random.default_rng([seed, video, len(name)])
        for t, (codes, frame) in enumerate(make_video(rng, pictures[video % len(pictures)], schema)):
            path = f'images/{name}{video:02}_{t:06}.png'
            Image.fromarray(frame).save(folder / path)
            records.append(Record(path, schema.question(), schema.render(schema.from_codes(codes)),
                                  dict(video=f"{name}{video:02}", frame_index=t)))
    write_records(folder / 'labels.jsonl', records)
    schema.save(folder / 'schema.json')
    order = [f'{name}{video:02}' for video in np.random.default_rng(seed).permutation(videos)]
    test, validation = order[:round(.225 * videos)], order[round(.225 * videos):round(.35 * videos)]
    write_splits(folder, Splits(dict(train=tuple(v for v in order if v not in test and v not in validation),
                                validation=tuple(validation), test=tuple(test)), by="record"))
    return folder


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('name', choices=list(SCHEMAS))
    parser.add_argument('folder', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    asked = parser.parse_args()
    sys.stdout.write(f'{make(asked.name, asked.folder, asked.seed)}\n')
