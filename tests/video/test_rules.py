"Rules from the command line; what a sentence means is in the chapter"
import pytest
from terminal import fails, run

from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.video.rules import read_rules


def test_a_file_that_is_nested_without_end_is_no_rule(tmp_path):
    (tmp_path / 'rules.yaml').write_text('[' * 1200)
    with pytest.raises(VQAError, match='rules.yaml.*not YAML'): read_rules(tmp_path / 'rules.yaml', EventSchema())


@pytest.mark.slow
def test_the_command_reads_them_before_the_work(bikes, tmp_path):
    (tmp_path / 'rules.yaml').write_text('- no A longer than 1 s\n- no X\n')
    fails('video', '--video-path', bikes, '--model', 'tiny', '--output', tmp_path / 'out', '--rules', tmp_path / 'rules.yaml', says=["rules.yaml:2: 'X' in the rule 'no X'"])
    assert not (tmp_path / 'out').exists()
    (tmp_path / 'rules.yaml').write_text('- no A longer than 1 h\n')
    done = run('video', '--video-path', bikes, '--model', 'tiny', '--output', tmp_path / 'out', '--rules', tmp_path / 'rules.yaml', '--fps', '0.3', '--no-annotated')
    assert done.returncode == 0 and 'No rule of' in done.stdout and '"kept": ["no A longer than 1 h"]' in (tmp_path / 'out/review.html').read_text()
