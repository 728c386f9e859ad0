"""Nothing that was acknowledged is lost: kill -9, full disks, torn files, two writers, all real"""
import contextlib, json, os, random, signal, socket, subprocess, sys, threading, time
from pathlib import Path

import pytest

from paligemma_vqa.journal import Journal, read_journal
from paligemma_vqa.dataset.records import LABELS, read_records
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.labeling.store import LabelStore

CHILD = Path(__file__).with_name('labels_child.py')
ENVIRONMENT = os.environ | {'PYTHONPATH': str(Path(__file__).parents[2])}

def make_folder(folder:Path, frames=12) -> Path:
    (folder/'images').mkdir(parents=True)
    for video in 'vw':
        for frame in range(frames): (folder/f'images/{video}_{frame:06d}.jpg').touch()
    return folder

def start_child(folder, annotator, seed, *count, **options):
    return subprocess.Popen([sys.executable, CHILD, folder, annotator, str(seed), *map(str, count)], stdout=subprocess.PIPE, text=True,
                            env=ENVIRONMENT, **options)

def saved_ids(output:str) -> list[str]:
    "What the child was told is saved; its own last line can be torn, since it was killed"
    lines = output.split('\n')[:-1]
    return [line.split()[1] for line in lines if line.startswith('saved ')]

def journal_ids(path) -> set[str]:
    found = []
    _, damaged = read_journal(path, found.append)
    assert damaged == 0
    return [entry['id'] for entry in found]

@contextlib.contextmanager
def labelers():
    "A function that starts a labeler, and gives what reads its stdout and what kills it: a process each, forked from one that has imported everything"
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, subprocess.Popen([sys.executable, CHILD, str(there.fileno())], pass_fds=[there.fileno()], env=ENVIRONMENT) as server:
        there.close()
        def start(*arguments):
            heard, told = os.pipe()
            socket.send_fds(here, [json.dumps(arguments).encode()], [told])
            os.close(told)
            number = int(here.recv(100))
            def kill():
                os.kill(number, signal.SIGKILL)        # it is reaped by the server alone, after which nobody asks for it: the number is still its own
                assert here.recv(100) == b'gone'
            return open(heard), kill
        yield start
        here.close()
        assert server.wait(30) == 0

def kill_often(tmp_path, times):
    "A labeler that is killed so often, at any moment; returns how many actions were acknowledged"
    with labelers() as start: return _kill_often(tmp_path, times, start)

def _kill_often(tmp_path, times, start):
    folder, choice, acknowledged, torn = make_folder(tmp_path/'data'), random.Random(0), [], 0
    journal = folder/'labels/anna.jsonl'
    for number in range(times):
        stdout, kill = start(str(folder), 'anna', number)
        with stdout:
            if choice.random() < 0.1: time.sleep(choice.random() * 0.1)     # some are killed while they start or open
            heard = ''.join(stdout.readline() for _ in range(choice.randrange(20)))
            time.sleep(choice.random() * 0.01)
            kill()
            acknowledged += saved_ids(heard + stdout.read())
        if (folder/LABELS).exists() and (folder/LABELS).stat().st_size: read_records(folder, EventSchema())   # whole at every moment
        if number % 10 == 9:                                       # a clean start every now and then, and after every kill by the next child
            with LabelStore(folder, 'anna') as store: torn += any('torn' in notice for notice in store.notices)
            assert journal.read_bytes().endswith(b'\n')
    for leftover in folder.glob('**/.*.tmp'): os.utime(leftover, (0, 0))
    with LabelStore(folder, 'anna') as store: store.set_note(store.items[0], 'tidy up')
    assert not list(folder.glob('**/.*.tmp'))
    ids = journal_ids(journal)
    assert set(acknowledged) <= set(ids) and len(ids) == len(set(ids))
    with LabelStore(folder, 'anna') as store: expected = store.records()
    assert read_records(folder) == expected
    return len(acknowledged)

def test_ten_kills(tmp_path): assert kill_often(tmp_path, 10) > 20

@pytest.mark.slow
def test_three_hundred_kills(tmp_path): assert kill_often(tmp_path, 300) > 1000

def test_a_kill_between_opening_and_compaction_leaves_the_labels_in_the_journal(tmp_path):
    folder = make_folder(tmp_path/'data')
    child = start_child(folder, 'anna', 5)
    while child.stdout.readline().count('saved') == 0: pass
    child.kill()
    child.communicate()
    LabelStore(folder, 'anna').close()
    with LabelStore(folder, 'anna') as store: assert store.records() == (read_records(folder) if store.records() else [])

@pytest.mark.parametrize('tail', ['', '\x00' * 700, 'garbage'])
def test_every_place_to_be_cut(tmp_path, tail):
    "A power cut can leave any prefix of the last writes, and blocks of zeros after it"
    folder = make_folder(tmp_path/'whole', 2)
    with LabelStore(folder, 'anna') as store:
        for phase in '1234': store.set('images/v_000000.jpg', 'A', phase)
    whole = (folder/'labels/anna.jsonl').read_bytes()
    for length in range(0, len(whole) + 1, 7):
        path = tmp_path/f'{length}.jsonl'
        path.write_bytes(whole[:length] + tail.encode())
        found = []
        journal = Journal(path, found.append)
        assert len(found) == whole[:length].count(b'\n')
        journal.append({'id': 'next'})
        journal.close()
        assert path.read_bytes() == whole[:whole[:length].rfind(b'\n') + 1] + b'{"id":"next"}\n'
        cut = whole[whole[:length].rfind(b'\n') + 1:length] + tail.encode()
        assert (path.with_suffix('.torn').read_bytes() == cut + b'\n') if cut else not path.with_suffix('.torn').exists()

def test_a_damaged_block_in_the_middle_costs_that_line_only(tmp_path):
    folder = make_folder(tmp_path/'data', 3)
    with LabelStore(folder, 'anna') as store:
        for frame in range(3): store.annotate(f'images/v_{frame:06d}.jpg', {'A': str(frame + 1)})
    lines = (folder/'labels/anna.jsonl').read_bytes().split(b'\n')
    lines[1] = b'\x00' * len(lines[1])
    (folder/'labels/anna.jsonl').write_bytes(b'\n'.join(lines))
    (folder/'labels/.anna.copy').unlink()
    with LabelStore(folder, 'anna') as store:
        assert 'anna.jsonl:2: the line is damaged' in store.notices[0]
        assert store.annotation('images/v_000000.jpg') == {'A': '1'} and store.annotation('images/v_000002.jpg') == {'A': '3'}

# A full disk

def fill_up(folder):
    "Label until an error comes; returns the acknowledged ids and the error"
    store, ids = LabelStore(folder, 'anna'), []
    try:
        for number in range(100_000):
            ids.append(store.set_note(store.items[number % len(store.items)], f'{number} ' + 'word ' * 100).id)
    except VQAError as error: return store, ids, error
    raise AssertionError('the disk never filled up')

@pytest.fixture
def small_disk(tmp_path):
    (tmp_path/'disk').mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', tmp_path/'disk'], capture_output=True).returncode == 0
    if not mounted: pytest.skip('mounting a small file system needs root; the limit on the size of a file is tested instead')
    yield tmp_path/'disk'
    subprocess.run(['umount', tmp_path/'disk'], check=True)

def test_full_file_system(small_disk):
    folder = make_folder(small_disk/'data', 3)
    (small_disk/'spare').write_bytes(b'x' * 2**15)    # what is there again in the end, however the last page fills
    store, ids, error = fill_up(folder)
    assert 'NOT saved' in str(error) and 'Free some space' in str(error) and error.exit_code == 1
    journal = folder/'labels/anna.jsonl'
    assert journal_ids(journal) == ids and journal.read_bytes().endswith(b'\n')     # what was acknowledged, no torn line
    assert store.state(store.items[len(ids) % len(store.items)]).note != f'{len(ids)} ' + 'word ' * 100   # memory agrees with the disk
    with pytest.raises(VQAError, match='NOT saved'): store.set_note(store.items[0], 'word ' * 2000)
    with open(small_disk/'ballast', 'wb', buffering=0) as file:                      # not a byte left
        try:
            while True: file.write(b'x' * 512)
        except OSError: pass
    before = (folder/LABELS).read_bytes() if (folder/LABELS).exists() else None
    try: store.close()
    except VQAError as problem: assert 'labels are safe' in str(problem)
    assert store.closed
    for name in 'ballast', 'spare': (small_disk/name).unlink()
    with LabelStore(folder, 'anna') as store:                                        # the next start is clean
        assert store.notices == [] and store.set(store.items[0], 'A', '1')
    assert set(ids) < set(journal_ids(journal))

def test_file_size_limit(tmp_path):
    "The same without root: the kernel lets only a part of the last line through"
    folder, limit = make_folder(tmp_path/'data', 3), 30_000
    code = ('import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (%d, %d))\n' % (limit, limit)
            + 'sys.argv = ["child", sys.argv[1], "anna", "1", "100000"]\nexec(open(%r).read())' % str(CHILD))
    child = subprocess.run([sys.executable, '-c', code, folder], capture_output=True, text=True, env=ENVIRONMENT)
    assert 'NOT saved' in child.stdout, child.stdout + child.stderr
    journal = folder/'labels/anna.jsonl'
    assert journal_ids(journal) == saved_ids(child.stdout) and journal.read_bytes().endswith(b'\n')
    with LabelStore(folder, 'anna') as store: assert not any('torn' in notice for notice in store.notices)

# Two writers

def test_two_annotators_at_once_lose_nothing(tmp_path):
    folder = make_folder(tmp_path/'data')
    children = {name: start_child(folder, name, seed, 400) for seed, name in enumerate(('anna', 'bert', 'čeněk'))}
    outputs = {name: child.communicate()[0] for name, child in children.items()}
    for name, output in outputs.items():
        assert children[name].returncode == 0 and 'error' not in output
        assert saved_ids(output) and journal_ids(folder/f'labels/{name}.jsonl') == saved_ids(output)
    store = LabelStore(folder, 'dora', read_only=True)
    assert store.annotators == ['anna', 'bert', 'dora', 'čeněk']
    assert not store.unsaved and read_records(folder) == store.records()

def test_second_opener_is_told_then_waits_then_reads(tmp_path):
    folder = make_folder(tmp_path/'data')
    child = start_child(folder, 'anna', 0)
    while not child.stdout.readline().startswith('saved'): pass
    with pytest.raises(VQAError, match=rf'anna.jsonl: is being written by process {child.pid} on .* since '): LabelStore(folder, 'anna')
    reader = LabelStore(folder, 'anna', read_only=True)
    for act in (lambda: reader.set(reader.items[0], 'A', '1'), reader.undo, reader.compact):
        with pytest.raises(VQAError, match='read-only'): act()
    threading.Timer(0.5, child.kill).start()
    started = time.monotonic()
    with LabelStore(folder, 'anna', wait_s=20) as store:
        assert 0.2 < time.monotonic() - started < 15
        child.communicate()
        reader.refresh()
        assert all(reader.annotation(item) == store.annotation(item) for item in store.items)

def test_running_the_cell_again_takes_over(tmp_path):
    folder = make_folder(tmp_path/'data')
    first = LabelStore(folder, 'anna')
    first.annotate(first.items[0], {'A': '1'})
    second = LabelStore(folder, 'anna')
    assert first.closed and second.annotation(first.items[0]) == {'A': '1'}
    with pytest.raises(VQAError, match='newer cell'): first.set(first.items[1], 'A', '2')
    assert first.annotation(first.items[1]) == {'A': '1'}         # and its memory says what the disk says
    second.close()

def test_threads_share_a_store(tmp_path):
    folder, ids = make_folder(tmp_path/'data'), []
    with LabelStore(folder, 'anna') as store:
        def work(seed):
            choice = random.Random(seed)
            for _ in range(100):
                if change := store.set(choice.choice(store.items), choice.choice('ABCDE'), choice.choice('1234')): ids.append(change.id)
                store.counts(), store.spans('v'), store.annotation(store.items[-1])
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    assert sorted(journal_ids(folder/'labels/anna.jsonl')) == sorted(ids)

def test_a_deleted_or_replaced_journal_is_noticed(tmp_path):
    folder = make_folder(tmp_path/'data')
    store = LabelStore(folder, 'anna')
    store.set(store.items[0], 'A', '1')
    (folder/'labels/anna.jsonl').unlink()
    with pytest.raises(VQAError, match='changed or deleted'): store.set(store.items[0], 'A', '2')
    assert store.annotation(store.items[0]) == {'A': '1'}
    store.journal.close()
