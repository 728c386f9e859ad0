"""A labeler that is killed: writes labels as fast as it can and tells on stdout what was acknowledged

Run as `python labels_child.py FOLDER ANNOTATOR SEED [COUNT]`. Imports nothing heavy: it is started hundreds of times."""
import random, sys
from paligemma_vqa.schema import VQAError
from paligemma_vqa.labeling.store import LabelStore

folder, annotator, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
count = int(sys.argv[4]) if len(sys.argv) > 4 else 10**9
choice = random.Random(seed)
store = LabelStore(folder, annotator)
print('open', flush=True)
for number in range(count):
    item = choice.choice(store.items)
    try:
        match choice.randrange(8):
            case 0: change = store.annotate(item, {'A': choice.choice(store.schema.phases)})
            case 1: change = store.set_flag(item, choice.random() < 0.5) if choice.random() < 0.3 else store.set_status(item, choice.choice(['done', 'todo', 'skipped']))
            case 2: change = store.undo()
            case 3: change = store.redo()
            case 4: change = store.set_note(item, f'note {number} ' + 'long ' * choice.randrange(2000))
            case 5:
                change = None
                if number % 10 == 5: store.compact()
            case _: change = store.set(item, choice.choice(store.schema.events), choice.choice([None, *store.schema.phases]))
    except VQAError as error:
        print('error', str(error), flush=True)
        break
    if change: print('saved', change.id, flush=True)
if count < 10**9: store.close()
