"""One contestant of the race, in a process of its own, so that its time and its memory are its own.

`python tests/race.py FOLDER CONTESTANT` learns from the folder's train split, answers its test split and prints one
line of JSON with the answers as text. Nobody is scored here: that is done from outside, in `nbs/benchmarks/race.ipynb`.
"""
import argparse, json, resource, sys, tempfile, time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from classic_script import train as train_classic
from paligemma_vqa.dataset.loading import load_dataset
from paligemma_vqa.dataset.records import load_schema
from paligemma_vqa.evaluation.baselines import constant_answer, linear_probe, vision_features
from paligemma_vqa.inference.predictor import Predictor
from paligemma_vqa.model.base import base_folder
from paligemma_vqa.model.pixels import preprocess_images
from paligemma_vqa.training.config import TrainingConfig
from paligemma_vqa.training.run import finetune

SIZE = 96           # pixels a side, as the tiny base sees them
CONTESTANTS = {}


def contestant(function):
    CONTESTANTS[function.__name__] = function
    return function


class Race:
    "What everybody gets"
    def __init__(self, folder, seed, epochs):
        self.folder, self.seed, self.epochs, self.schema = Path(folder), seed, epochs, load_schema(folder)
        self.splits = load_dataset(self.folder, self.schema, decode=True)
        self.work = Path(tempfile.mkdtemp())

    def pictures(self, split): return [np.array(image.convert('RGB')) for image in self.splits[split]['image']]

    def codes(self, split):
        return np.array([self.schema.codes(self.schema.parse(answer)) for answer in self.splits[split]['answer']])

    def rendered(self, codes): return [self.schema.render(self.schema.from_codes(row)) for row in codes]


@contestant
def constant(race):
    answer = constant_answer(race.codes('train'))
    return lambda pictures: race.rendered([answer] * len(pictures))


@contestant
def probe(race):
    base = Predictor.from_base('tiny', race.schema, device='cpu')
    features, codes = vision_features(base, race.pictures('train')), race.codes('train')
    return lambda pictures: race.rendered(linear_probe(features, codes, vision_features(base, pictures), race.seed))


def varied(pixels, generator, mirrored):
    "Each picture [n, 3, size, size] moved a little, mirrored, in other colours, lighter or darker"
    def between(low, high, *shape): return low + (high - low) * torch.rand(len(pixels), *shape, generator=generator)
    places = torch.zeros(len(pixels), 2, 3)
    for axis, may_flip in enumerate((mirrored, True)):
        sign = 1 - 2 * (torch.rand(len(pixels), generator=generator) < 0.5).float() * may_flip
        places[:, axis, axis] = between(0.92, 1.08) * sign
    places[:, :, 2] = between(-0.24, 0.24, 2)
    grid = F.affine_grid(places, pixels.shape, align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode='reflection', align_corners=False)
    angle, third = between(-np.pi, np.pi)[:, None, None], torch.full((3, 3), 1 / 3)    # around the axis of greys
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0.]]) / 3 ** 0.5
    turn = torch.cos(angle) * torch.eye(3) + torch.sin(angle) * cross + (1 - torch.cos(angle)) * third
    pixels = torch.einsum('nij,njhw->nihw', turn, pixels)
    return (pixels * between(0.75, 1.25, 1, 1, 1) + between(-0.15, 0.15, 1, 1, 1)).clamp(-1, 1)


def small_network(outputs):
    def block(before, after, size, stride):
        return [torch.nn.Conv2d(before, after, size, stride, size // 2, bias=False), torch.nn.BatchNorm2d(after),
                torch.nn.ReLU()]
    return torch.nn.Sequential(*block(3, 16, 5, 2), *block(16, 32, 3, 2), *block(32, 48, 3, 2), *block(48, 64, 3, 1),
                               *block(64, 96, 3, 2), *block(96, 96, 3, 1), torch.nn.AdaptiveMaxPool2d(1),
                               torch.nn.Flatten(), torch.nn.Dropout(0.2), torch.nn.Linear(96, outputs))


@contestant
def network(race, steps=800, batch=32, rate=4e-3):
    "The reference: a small convolutional network from scratch, which can say nothing else than these codes"
    torch.manual_seed(race.seed)
    generator, answers = torch.Generator().manual_seed(race.seed), len(race.schema.phases) + 1
    pixels, codes = preprocess_images(race.pictures('train'), SIZE), torch.from_numpy(race.codes('train'))
    model = small_network(codes.shape[1] * answers).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    mirrored = race.folder.name != 'changes'        # left and right mean something there
    for _ in range(steps):
        rows = torch.randint(0, len(codes), (batch,), generator=generator)
        logits = model(varied(pixels[rows], generator, mirrored)).view(-1, answers)
        optimizer.zero_grad()
        F.cross_entropy(logits, codes[rows].flatten()).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    def answer(pictures):
        with torch.no_grad(): logits = model(preprocess_images(pictures, SIZE)).view(len(pictures), -1, answers)
        return race.rendered(logits.argmax(-1).numpy())
    return answer


@contestant
def script(race):
    "The classic script: Trainer, PEFT with bare names, the loss over all positions, `generate`"
    from peft import PeftModel
    from transformers import AutoProcessor, PaliGemmaForConditionalGeneration
    from paligemma_vqa.dataset.records import read_records
    from paligemma_vqa.dataset.splits import read_splits
    splits, data = read_splits(race.folder), race.work / 'train'
    lines = (race.folder / 'labels.jsonl').read_text().splitlines()
    lines = [line for line, record in zip(lines, read_records(race.folder)) if splits.side(record) == 'train']
    data.mkdir()
    (data / 'labels.jsonl').write_text('\n'.join(lines))
    (data / 'images').symlink_to((race.folder / 'images').resolve())
    base, steps = str(base_folder('tiny')), round(race.epochs * len(lines) / 6)
    adapter = train_classic(base, data, race.work / 'run', before='', steps=steps)
    model = PaliGemmaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    processor = AutoProcessor.from_pretrained(base)
    def answer(pictures):
        found = []
        for start in range(0, len(pictures), 32):
            some = pictures[start:start + 32]
            inputs = processor(images=some, text=['<image>' + race.schema.question()] * len(some), return_tensors='pt')
            inputs.pop('labels', None)
            with torch.no_grad(): ids = model.generate(**inputs, max_new_tokens=96, do_sample=False)
            found += processor.batch_decode(ids[:, inputs['input_ids'].shape[1]:], skip_special_tokens=True)
        return found
    return answer


def by_preset(race, **changes):
    "Fine-tune with the package; answers without probabilities, and a second function with them"
    config = TrainingConfig.preset('tiny', seed=race.seed, epochs=race.epochs, tensorboard=False, **changes)
    result = finetune(race.folder, race.work / 'run', config, progress=False)
    predictor = Predictor.from_adapter(result.adapter_dir, device='cpu')
    def answer(pictures, **options):
        return [one.answer for one in predictor.predict(pictures, batch_size=32, **options)]
    def fast(pictures): return answer(pictures, bound=None)
    fast.with_probabilities = answer
    return fast


@contestant
def preset(race): return by_preset(race)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path)
    parser.add_argument('contestant', choices=list(CONTESTANTS))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--epochs', type=float, default=8, help='of the language models')
    asked = parser.parse_args()
    torch.set_num_threads(1)
    race, clock = Race(asked.folder, asked.seed, asked.epochs), time.process_time   # others' work does not count
    began = clock()
    answer = CONTESTANTS[asked.contestant](race)
    learned = clock()
    pictures = race.pictures('test')
    before = clock()
    answers = answer(pictures)
    found = dict(data=race.folder.name, who=asked.contestant, seed=asked.seed, epochs=asked.epochs, answers=answers,
                 seconds=learned - began, a_picture_s=(clock() - before) / len(pictures))
    if with_probabilities := getattr(answer, 'with_probabilities', None):
        before = clock()
        with_probabilities(pictures[:16])
        found['with_probabilities_s'] = (clock() - before) / 16
    found['peak_mb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps(found) + '\n')


if __name__ == '__main__': main()
