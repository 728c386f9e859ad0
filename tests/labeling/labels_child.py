"""A labeler that is killed: writes labels as fast as it can and tells on stdout what was acknowledged

Run as `python labels_child.py FOLDER ANNOTATOR SEED [COUNT]`, or as `python labels_child.py SOCKET`: then, told over the
socket, it forks into one such labeler after the other. Each is a process of its own, without the half second of imports."""
import json, os, random, socket, sys
from paligemma_vqa.schema import VQAError
from paligemma_vqa.labeling.store import LabelStore


def label(folder, annotator, seed, count=10**9):
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


def serve(asked):
    "For each message, the arguments and where stdout leads to: a labeler; told are its number, and that it is dead and reaped"
    while True:
        message, files, _, _ = socket.recv_fds(asked, 10_000, 1)
        if not message: return
        [stdout] = files
        if not (child := os.fork()):
            asked.close()
            os.dup2(stdout, 1)
            os.close(stdout)
            label(*json.loads(message))
            os._exit(0)
        os.close(stdout)
        asked.send(b'%d' % child)
        os.waitpid(child, 0)
        asked.send(b'gone')


if __name__ == '__main__':
    if len(sys.argv) == 2: serve(socket.socket(fileno=int(sys.argv[1])))
    else: label(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
