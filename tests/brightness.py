"""A predictor that needs no model, and a long video that costs little."""
import time
from types import SimpleNamespace

import numpy as np

from paligemma_vqa.media.writing import VideoWriter
from paligemma_vqa.schema import EventSchema


class Brightness:
    "Answers from the brightness of the picture's quarters, so that every pixel path matters"
    schema = EventSchema(events=('A', 'B', 'C', 'D'))

    def __init__(self, seconds=0.0): self.seconds, self.asked = seconds, 0

    def answer(self, image):
        self.asked += 1
        time.sleep(self.seconds)
        height, width = image.shape[0] // 2, image.shape[1] // 2
        means = [image[y:y + height:4, x:x + width:4].mean() for y in (0, height) for x in (0, width)]
        p = np.array([np.exp(-((np.arange(5) * 50 - mean) / 30) ** 2) + 1e-3 for mean in means])
        return SimpleNamespace(probabilities=p / p.sum(-1, keepdims=True), latency_ms=self.seconds * 1000)

    def stream(self, frames, bound=None):
        for frame in frames: yield self.answer(frame.image)

    def predict_each(self, images, batch_size=8, bound=None):
        waiting = []
        for image in images:
            waiting.append(image)
            if len(waiting) == batch_size: yield from map(self.answer, waiting); waiting = []
        yield from map(self.answer, waiting)

    def predict(self, images, batch_size=8, bound=None): return list(self.predict_each(images, batch_size))


def flicker(path, seconds, fps=5, size=(64, 64), hold_s=2):
    "A long video that costs little: gray levels that change every few seconds"
    with VideoWriter(path, fps, preset='ultrafast') as writer:
        for i in range(int(seconds * fps)): writer.write(np.full((*size, 3), 40 * (i // (hold_s * fps) % 6), np.uint8), i / fps)
    return path
