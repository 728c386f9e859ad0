import hashlib
import json
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jupyter_browser import chromium_page

from paligemma_vqa.scenes import videos as scenes
from paligemma_vqa.dataset.records import read_records
from paligemma_vqa.schema import EventSchema, VQAError
from paligemma_vqa.scenes.videos import (DEMO_SCHEMA, make_dataset, make_video, plan_scene, plan_still, render_frame,
                                         write_video)

SEEDS = st.integers(0, 2**31)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 6), st.floats(2, 60))
def test_phases_come_in_order_without_gaps(seed, events, phases, duration_s):
    schema = EventSchema(events=tuple('VWXYZ'[:events]), phases=tuple(f'p{i}' for i in range(phases)))
    scene = plan_scene(seed, schema, duration_s=duration_s)
    for event in schema.events:
        previous = None
        for segment in (s for s in scene.segments() if s.event == event):
            assert 0 <= segment.start_s < segment.end_s <= duration_s
            if previous and segment.start_s == previous.end_s:
                assert schema.phases.index(segment.phase) == schema.phases.index(previous.phase) + 1
            elif previous:
                assert segment.start_s > previous.end_s                      # one course is over before the next begins
                assert segment.phase == schema.phases[0]
            previous = segment


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_annotation_agrees_with_segments_and_with_what_is_drawn(seed):
    scene, drawn = plan_scene(seed, duration_s=10), []

    def spy(kind, draw):
        def drawing(canvas, place, stage, noise):
            drawn.append((kind, stage))
            draw(canvas, place, stage, noise)
        return drawing

    with pytest.MonkeyPatch.context() as patch:   # watches the drawings, and lets them draw
        patch.setattr(scenes, 'EVENT_DRAWINGS', tuple(spy(i, d) for i, d in enumerate(scenes.EVENT_DRAWINGS)))
        for time_s in np.arange(0, 10, 0.9):
            drawn.clear()
            render_frame(scene, time_s, 48)
            shown = {DEMO_SCHEMA.events[kind]: DEMO_SCHEMA.phases[int(stage * 4)] for kind, stage in drawn}
            assert shown == scene.annotation(time_s)
            assert shown == {s.event: s.phase for s in scene.segments() if s.start_s <= time_s < s.end_s}


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(DEMO_SCHEMA.events), st.sampled_from(DEMO_SCHEMA.phases))
def test_every_event_can_be_seen(seed, event, phase):
    still = plan_still({event: phase}, seed)
    empty = replace(still, things=())
    difference = np.abs(render_frame(still, 0.5, 128).astype(int) - render_frame(empty, 0.5, 128)).max(-1)
    assert (difference > 30).sum() > 60   # pixels of 16384


def test_events_overlap_begin_and_end_inside_videos():
    counts = [len(plan_scene(seed).annotation(t)) for seed in range(40) for t in np.arange(0, 15, 0.5)]
    assert min(counts) == 0 and max(counts) == 3
    assert 1.0 < np.mean(counts) < 2.0


@pytest.mark.parametrize('size', [64, (160, 90), (101, 77)])
def test_frames_have_the_asked_size(size):
    width, height = (size, size) if isinstance(size, int) else size
    image = render_frame(plan_scene(1), 3, size)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    assert image.std() > 15


def digest(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob('*')) if p.is_file()}


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name, seed in (('one', 5), ('two', 5), ('three', 6)):
        make_dataset(tmp_path / name, videos=2, seed=seed, duration_s=3, size=64, video_files=1)
    assert digest(tmp_path / 'one') == digest(tmp_path / 'two')
    assert not set(digest(tmp_path / 'one').values()) >= set(digest(tmp_path / 'three').values())


def test_a_dataset_reads_back_with_its_truth(tmp_path):
    planned = make_dataset(tmp_path, videos=3, seed=20, duration_s=4, fps=10, frame_every=5, size=64, video_files=2, answer_format='list')
    records = read_records(tmp_path, DEMO_SCHEMA, check_images=True)
    by_name = {scene.name: scene for scene in planned}
    assert len(records) == 3 * 8
    for record in records:
        assert record.image == f'images/{record.video}_{record.frame_index:06d}.jpg'
        assert record.time_s == record.frame_index / 10
        assert DEMO_SCHEMA.parse(record.answer, 'list') == by_name[record.video].annotation(record.time_s)
    assert EventSchema.load(tmp_path / 'schema.json') == DEMO_SCHEMA
    assert sorted(p.name for p in (tmp_path / 'videos').iterdir()) == ['scene_021.mp4', 'scene_022.mp4']


def test_names_come_from_the_schema(tmp_path):
    schema = EventSchema.preset('zh', events=('出血', '抓取'), phases=('早期', '晚期'))
    make_dataset(tmp_path, videos=6, schema=schema, size=64)
    answers = [json.loads(line)['answer'] for line in (tmp_path / 'labels.jsonl').read_text(encoding='utf-8').splitlines()]
    seen = [item for answer in answers for item in schema.parse(answer).items()]
    assert {event for event, _ in seen} == set(schema.events)
    assert {phase for _, phase in seen} == set(schema.phases)


def test_existing_labels_are_not_overwritten(tmp_path):
    (tmp_path / 'labels.jsonl').write_text('mine')
    with pytest.raises(VQAError, match='labels here already'): make_dataset(tmp_path, videos=1)
    assert (tmp_path / 'labels.jsonl').read_text() == 'mine'


@pytest.mark.parametrize('size, fps', [(96, 10), ((160, 90), 25), ((101, 77), 29.97)])
def test_a_video_file_decodes_with_every_frame(tmp_path, size, fps):
    scene = plan_scene(8, duration_s=3, fps=fps)
    make_video(tmp_path / 'scene.mp4', scene, size)
    with av.open(str(tmp_path / 'scene.mp4')) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == 'h264' and stream.codec_context.pix_fmt == 'yuv420p'
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-3)
        frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
    assert len(frames) == scene.frame_count
    for index in (0, len(frames) // 2, len(frames) - 1):
        drawn = render_frame(scene, index / fps, size)[:frames[0].shape[0], :frames[0].shape[1]]
        assert np.abs(frames[index].astype(float) - drawn).mean() < 10
    capture = cv2.VideoCapture(str(tmp_path / 'scene.mp4'))   # and OpenCV agrees about the count
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == scene.frame_count


def test_the_index_comes_before_the_pictures(tmp_path):
    # A browser starts to play before it has the whole file.
    write_video(tmp_path / 'a.mp4', (np.full((64, 64, 3), i, np.uint8) for i in range(20)), 10)
    data = (tmp_path / 'a.mp4').read_bytes()
    assert data.index(b'moov') < data.index(b'mdat')


@pytest.mark.browser
def test_a_browser_plays_the_video(tmp_path):
    make_video(tmp_path / 'scene.mp4', plan_scene(2, duration_s=3), 128)
    (tmp_path / 'page.html').write_text(
        '<video id=v muted src=scene.mp4></video><p id=out>waiting</p><script>v.onended=()=>out.textContent="ended "+v.duration+" "+v.videoWidth;'
        'v.onerror=()=>out.textContent="error "+v.error.message;v.play().catch(e=>out.textContent="refused "+e)</script>')
    with chromium_page() as (page, _):
        page.goto((tmp_path / 'page.html').as_uri())
        page.wait_for_function('out.textContent != "waiting"', timeout=60_000)
        assert page.inner_text('#out').split() == ['ended', '3', '128']
