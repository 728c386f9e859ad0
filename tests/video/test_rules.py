"Rules as people write them, and files that hold something else"
import pytest
from terminal import fails, run

from paligemma_vqa.schema import EventSchema, Segment, VQAError
from paligemma_vqa.video.rules import find_violations, parse_rule, read_rules

SCHEMA = EventSchema(events=('dissection', 'clipping', 'cutting', 'bleeding', 'flow longer than usual', '出血', 'Gefäß'), phases=('1', '2', '3', 'at rest'))
MEANT = {
    'clipping begins only after dissection 3': ('after', 'clipping', 'dissection 3', None),
    'Clipping may begin only after dissection (3)!': ('after', 'clipping', 'dissection 3', None),
    'no clipping until dissection in the 3 phase': ('after', 'clipping', 'dissection 3', None),
    'no bleeding longer than 1 minute and 30 seconds.': ('longer', 'bleeding', None, 90),
    'bleeding at rest lasts never longer than 0:01:30': ('longer', 'bleeding at rest', None, 90),
    'no flow longer than usual longer than 2,5 min': ('longer', 'flow longer than usual', None, 150),
    'no flow longer than usual': ('never', 'flow longer than usual', None, None),
    'never flow longer than usual': ('never', 'flow longer than usual', None, None),
    'clipping lasts at least 500 ms': ('shorter', 'clipping', None, 0.5),
    'no 出血 2 without clipping': ('without', '出血 2', 'clipping', None),
    'no GEFÄSS together with cutting:1': ('with', 'Gefäß', 'cutting 1', None),
    'no Gefa\u0308ß with cutting': ('with', 'Gefäß', 'cutting', None),     # as a Mac writes it
    'cutting must happen': ('must', 'cutting', None, None),
}


@pytest.mark.parametrize('sentence', MEANT)
def test_what_is_meant(sentence):
    rule = parse_rule(sentence, SCHEMA)
    assert (rule.kind, str(rule.what), rule.other and str(rule.other), rule.seconds) == MEANT[sentence]


@pytest.mark.parametrize('sentence, says', [
    ('dissection before clipping', 'is not understood'), ('clipping', 'is not understood'), ('', 'is not understood'), ('no', 'is not understood'),
    ('no bleeding longer than 30', "'30' is not a time"), ('no bleeding longer than -3 s', "'-3 s' is not a time"), ('no bleeding longer than dissection', 'is not a time'),
    ('no bleeding 9', "'bleeding 9' in the rule"), ('no clippings', "'clippings' in the rule"), ('no clipping without sutures', "'sutures' in the rule"),
    ('no clipping and cutting', "'clipping and cutting' in the rule"), ('no clipping3', "'clipping3' in the rule")])
def test_what_is_not_a_rule_is_not_guessed(sentence, says):
    with pytest.raises(VQAError, match=says): parse_rule(sentence, SCHEMA)


@pytest.mark.parametrize('content, says', [
    (b'', 'no list of rules'), (b'[]', 'no list of rules'), (b'rules:\n', 'no list of rules'), (b'no bleeding longer than 30 s\n', 'no list of rules'),
    (b'rules: [no bleeding]\nlimits: [no cutting]\n', "'limits' is not understood"), (b'- no bleeding\n- 5\n', ":2: the rule '5'"),
    (b'- no bleeding\n-\n', ":2: the rule ''"), (b'- no: bleeding\n', ':1: not a rule'), (b'- &a [*a]\n', ':1: not a rule'), (b'- ? {a: b}\n  : c\n', ':1: not a rule'),
    (b'- {name: {a: b}, rule: no bleeding}\n', ':1: not a rule'), (b'- {rule: no bleeding, rule: no cutting}\n', ':1: not a rule'),
    (b'- {name: a, rule: no bleeding}\n- {name: a, rule: no cutting}\n', ":2: the rule 'a' is in line 1, too"), (b'- no bleeding\n- no bleeding\n', 'is in line 1, too'),
    (b'- no bleeding\n---\n- no cutting\n', 'not YAML'), (b'- "no\n', 'not YAML'), (b'\t- no bleeding\n', 'not YAML'), (b'- !!python/object/apply:os.system [true]\n', ':1: not a rule'),
    (b'[' * 1200, 'not YAML'), ('- no bleeding'.encode('utf-16'), 'UTF-8'), (b'\x89PNG\r\n\x1a\n\x00', 'UTF-8'), (b'- no \x00bleeding\n', 'not YAML')])
def test_a_file_that_holds_something_else(content, says, tmp_path):
    path = tmp_path / 'rules.yaml'
    path.write_bytes(content)
    with pytest.raises(VQAError) as error: read_rules(path, SCHEMA)
    assert says in str(error.value) and str(path) in str(error.value) and error.value.exit_code == 2


def test_a_file_that_a_spreadsheet_or_an_editor_saved(tmp_path):
    path = tmp_path / 'rules.yaml'
    path.write_bytes(b'\xef\xbb\xbf# our rules\r\nrules:\r\n  - no bleeding  # never\r\n  - {name: "count: twice", rule: cutting must happen}\r\n')
    assert [rule.name for rule in read_rules(path, SCHEMA)] == ['no bleeding', 'count: twice']


def found(rule, *segments, end_s=100, unseen=()):
    return [(violation.time_s, bool(violation.doubt)) for violation in find_violations([parse_rule(rule, SCHEMA)], segments, end_s, unseen)]


def test_edges():
    def bleeding(start_s, end_s, phase='1'): return Segment('bleeding', phase, start_s, end_s)
    assert found('no bleeding longer than 30 s', bleeding(0, 30)) == []                                    # as long is not longer
    assert found('no bleeding longer than 30 s', bleeding(0, 20), bleeding(20, 31, '2')) == [(30, False)]   # through its phases
    assert found('no bleeding longer than 30 s', bleeding(0, 20), bleeding(21, 41)) == []
    assert found('no bleeding 1 longer than 30 s', bleeding(0, 20), bleeding(20, 50, '2')) == []
    assert found('no bleeding shorter than 5 s', bleeding(1, 3), bleeding(98, 100)) == [(3, False), (100, True)]   # the last may have gone on
    clip, cut = Segment('clipping', '1', 10, 12), Segment('cutting', '1', 10, 11)
    assert found('no cutting without clipping', clip, cut) == []                                            # at the same moment
    assert found('no cutting with clipping', clip, cut) == [(10, False)]
    assert found('cutting must happen', clip) == [(100, False)] and found('cutting must happen', clip, unseen=[(40, 50)]) == [(100, True)]
    assert found('no cutting before clipping', cut, unseen=[(0, 8)]) == [(10, True)] and found('no cutting before clipping', cut, unseen=[(20, 30)]) == [(10, False)]
    assert found('no cutting', cut, cut) == [(10, False)]


@pytest.mark.slow
def test_the_command_reads_them_before_the_work(bikes, tmp_path):
    (tmp_path / 'rules.yaml').write_text('- no A longer than 1 s\n- no X\n')
    fails('video', '--video-path', bikes, '--model', 'tiny', '--output', tmp_path / 'out', '--rules', tmp_path / 'rules.yaml', says=["rules.yaml:2: 'X' in the rule 'no X'"])
    assert not (tmp_path / 'out').exists()
    (tmp_path / 'rules.yaml').write_text('- no A longer than 1 h\n')
    done = run('video', '--video-path', bikes, '--model', 'tiny', '--output', tmp_path / 'out', '--rules', tmp_path / 'rules.yaml', '--fps', '0.3', '--no-annotated')
    assert done.returncode == 0 and 'No rule of' in done.stdout and '"kept": ["no A longer than 1 h"]' in (tmp_path / 'out/review.html').read_text()
