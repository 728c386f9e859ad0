"""Recordings of every kind, made from numbered test patterns, and how each is read compared with what was put in and with ffprobe.

`python tests/media/zoo.py FOLDER [NAME…]` makes them and prints one line each. A picture says its number, so that a
wrong, a repeated and a missing one are told apart whatever the codec did to it. A difference is *unreported* when a
picture that was put in is neither read at its time nor inside a stretch that the reader tells as lost.
"""
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from paligemma_vqa.media.decoding import Grid
from paligemma_vqa.media.reading import VideoReader, video_info

COUNT, RATE, WIDTH, HEIGHT = 50, 25, 320, 240


@lru_cache(maxsize=None)
def picture(number, height=HEIGHT, width=WIDTH):
    "Large squares, light or dark, that spell the number in binary; two more say where up and left are"
    image = np.full((height, width, 3), 60, np.uint8)
    for bit in range(8):
        row, column = divmod(bit, 4)
        top, left = height * (1 + 4 * row) // 9, width * (1 + 4 * column) // 17
        image[top:top + height // 3, left:left + width * 3 // 17] = 230 if number >> bit & 1 else 20
    return image


def number_in(image):
    "The number that a picture says"
    height, width = image.shape[:2]
    def light(bit):
        row, column = divmod(bit, 4)
        return image[height * (1 + 4 * row) // 9 + height // 6, width * (1 + 4 * column) // 17 + width * 3 // 34].mean()
    return sum(int(light(bit) > 125) << bit for bit in range(8))


def damage_of(image, number):
    "Gray levels by which a picture differs from what was put in, where it differs most of 8 × 8 places"
    height, width = image.shape[:2]
    difference = np.abs(image.astype(int).mean(-1) - picture(number, height, width).mean(-1))
    edges = [np.linspace(0, side, 9).astype(int)[:-1] for side in (height, width)]
    sums = np.add.reduceat(np.add.reduceat(difference, edges[0], 0), edges[1], 1)
    return sums.max() / (height / 8 * width / 8)


@dataclass(frozen=True)
class Animal:
    "One file: how it is made and what was put in"
    name: str
    encode: str = ''                    # Arguments of ffmpeg behind the numbered pictures
    make: Callable|None = None          # (path, folder), instead of ffmpeg alone
    spoil: Callable|None = None         # bytes -> bytes, once it is made
    times: Callable = lambda number: number / RATE   # When picture `number` is shown on the recording's clock
    count: int = COUNT
    size: tuple = (WIDTH, HEIGHT)       # px, as shown
    stored: tuple|None = None           # px, as put in; None: as shown
    rate: object = RATE
    numbers: Callable = lambda number: number        # What picture `number` says
    slack: float = 45.0                 # Gray levels that this codec may be off in its worst place
    sound: bool = False
    before: str = ''                    # Arguments before the pictures
    by_ffprobe: bool = True             # ffprobe's times are compared too
    is_damaged: bool = False
    knows_its_end: bool = True          # Otherwise what was cut off behind cannot be known
    is_quick: bool = False


def _ffmpeg(*arguments, **options):
    done = subprocess.run(['ffmpeg', '-nostdin', '-v', 'error', '-y', *map(str, arguments)], capture_output=True, **options)
    if done.returncode: raise RuntimeError(f"ffmpeg {' '.join(map(str, arguments))}: {done.stderr.decode()[-400:]}")


def encode(path, arguments, count=COUNT, rate=RATE, size=(WIDTH, HEIGHT), sound=False, before='', start=0):
    "`count` numbered pictures, from `start` on, through ffmpeg"
    content = b''.join(picture(number, *size[::-1]).tobytes() for number in range(start, start + count))
    path.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(['ffmpeg', '-v', 'error', '-y', *before.split(), '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-video_size', '%dx%d' % size,
                           '-framerate', str(rate), '-i', 'pipe:',
                           *(['-f', 'lavfi', '-t', str(count / eval(str(rate))), '-i', 'sine=300:sample_rate=48000'] if sound else []),
                           *arguments.split(), str(path)], input=content, capture_output=True)
    if done.returncode: raise RuntimeError(f'{path.name}: {done.stderr.decode()[-400:]}')
    return path


X264 = '-c:v libx264 -preset ultrafast -threads 1 -x264-params bframes=2:b-adapt=0:keyint=12:scenecut=0 -pix_fmt yuv420p '
PLAIN = '-c:v libx264 -preset ultrafast -threads 1 -bf 0 -g 12 -pix_fmt yuv420p '
MPEG2 = '-c:v mpeg2video -q:v 3 -bf 2 -g 12 -pix_fmt yuv420p '
PAL = dict(size=(720, 576), stored=(720, 576))


def joined(*parts, glue=lambda parts: b''.join(part.read_bytes() for part in parts)):
    "Files behind one another, as recorders do"
    def make(path, folder):
        made = [encode(folder / '.parts' / f'{path.stem}{i}{path.suffix}', **part) for i, part in enumerate(parts)]
        path.write_bytes(glue(made))
    return make


def remuxed(encoded, *arguments, suffix='mp4', **how):
    "A file made of another one, its pictures copied"
    def make(path, folder):
        whole = encode(folder / '.parts' / f'{path.stem}.{suffix}', encoded, **how)
        _ffmpeg(*[whole if argument == 'WHOLE' else argument for argument in arguments], path)
    return make


def hole(begin, end): return lambda content: content[:int(begin * len(content))] + content[int(end * len(content)):]
def packets_missing(begin, end):
    def spoil(content): return content[:int(begin * len(content)) // 188 * 188] + content[int(end * len(content)) // 188 * 188:]
    return spoil
def zeroed(begin, end):
    def spoil(content):
        a, b = int(begin * len(content)), int(end * len(content))
        return content[:a] + bytes(b - a) + content[b:]
    return spoil
def cut(share): return lambda content: content[:int(share * len(content))]
def bits_flipped(count, seed=3):
    def spoil(content):
        noisy, random = bytearray(content), np.random.default_rng(seed)
        for at in random.integers(len(content) // 5, len(content), count): noisy[at] ^= 1 << int(random.integers(8))
        return bytes(noisy)
    return spoil


def _told_mirrored(path, vf, matrix):
    "A file whose pictures are stored turned over, and say how they are to be shown"
    def bits(a, b, c, d): return struct.pack('>9i', a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    content = encode(path, f'-vf {vf} ' + X264).read_bytes()
    at = content.index(bits(1, 0, 0, 1), content.index(b'tkhd'))
    path.write_bytes(content[:at] + bits(*matrix) + content[at + 36:])


def A(name, encode='', **options): return Animal(name, encode, **options)


def _codecs():
    yield A('h264.mp4', X264, is_quick=True)
    yield A('hevc.mp4', '-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=12:pools=1 -pix_fmt yuv420p -tag:v hvc1')
    yield A('hevc10.mkv', '-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=12:pools=1 -pix_fmt yuv420p10le')
    yield A('mpeg4.mp4', '-c:v mpeg4 -q:v 3 -bf 2')
    yield A('av1.mp4', '-c:v libsvtav1 -preset 12 -pix_fmt yuv420p')
    yield A('av1.obu', '-c:v libsvtav1 -preset 12 -pix_fmt yuv420p -f obu', by_ffprobe=False)
    yield A('prores.mov', '-c:v prores -pix_fmt yuv422p10le')
    yield A('mjpeg.mov', '-c:v mjpeg -q:v 3 -pix_fmt yuvj420p')
    yield A('png.mov', '-c:v png -pix_fmt rgb24')
    yield A('qtrle.mov', '-c:v qtrle')
    yield A('raw.mov', '-c:v rawvideo -pix_fmt uyvy422')
    yield A('dnxhr.mov', '-c:v dnxhd -profile:v dnxhr_lb -pix_fmt yuv422p')
    yield A('vp8.webm', '-c:v libvpx -deadline realtime -cpu-used 8 -b:v 1M')
    yield A('vp9.webm', '-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 1M')
    yield A('vp9alt.mkv', '-c:v libvpx-vp9 -deadline good -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 16 -b:v 1M')
    yield A('h264.mkv', X264)
    yield A('ffv1.mkv', '-c:v ffv1 -pix_fmt yuv420p')
    yield A('mpeg2.mkv', MPEG2)
    yield A('theora.ogv', '-c:v libtheora -q:v 8')
    yield A('theora.mkv', '-c:v libtheora -q:v 8')
    yield A('mpeg4.avi', '-c:v mpeg4 -q:v 3 -bf 2', by_ffprobe=False, is_quick=True)
    yield A('xvid.avi', '-c:v libxvid -q:v 3 -bf 2', by_ffprobe=False)
    yield A('h264.avi', X264, by_ffprobe=False)
    yield A('mjpeg.avi', '-c:v mjpeg -q:v 3 -pix_fmt yuvj422p')
    yield A('huffyuv.avi', '-c:v huffyuv -pix_fmt yuv422p')
    yield A('msmpeg4.avi', '-c:v msmpeg4 -q:v 3')
    yield A('wmv2.wmv', '-c:v wmv2 -q:v 3')
    yield A('wmv1.asf', '-c:v wmv1 -q:v 3', sound=True)
    # What was written in one order and is shown in another, where the file hardly says so
    yield A('h264.wmv', X264 + '-f asf', by_ffprobe=False, is_quick=True)
    yield A('h264.mxf', '-c:v libx264 -preset ultrafast -threads 1 -x264-params bframes=2:keyint=12 -pix_fmt yuv420p', by_ffprobe=False)
    yield A('raw.m4v', '-c:v mpeg4 -q:v 3 -bf 2 -f m4v', by_ffprobe=False)
    yield A('open_gop.hevc', '-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=12:pools=1 -pix_fmt yuv420p', by_ffprobe=False)
    yield A('open_gop.avi', '-c:v libx264 -preset ultrafast -threads 1 -x264-params bframes=2:b-adapt=0:keyint=12:open-gop=1:scenecut=0 -pix_fmt yuv420p', by_ffprobe=False)
    yield A('mpeg2.avi', MPEG2, by_ffprobe=False)
    yield A('out_of_avi.mkv', make=remuxed('-c:v mpeg4 -q:v 3 -bf 2', '-fflags', '+genpts', '-i', 'WHOLE', '-c', 'copy', suffix='avi'), times=lambda number: (number + 1) / RATE)
    yield A('flv1.flv', '-c:v flv -q:v 3')
    yield A('h264.flv', X264)
    yield A('mpeg1.mpg', '-c:v mpeg1video -q:v 3 -bf 2 -g 12')
    yield A('mpeg2.vob', MPEG2 + '-f vob', **PAL, sound=True)
    yield A('h264.ts', X264, is_quick=True)
    yield A('hevc.ts', '-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=12:pools=1 -pix_fmt yuv420p')
    yield A('mpeg2.ts', MPEG2, sound=True)
    yield A('h264.m2ts', X264, sound=True)
    yield A('mpeg2.mxf', MPEG2, sound=True)
    yield A('dnxhr.mxf', '-c:v dnxhd -profile:v dnxhr_lb -pix_fmt yuv422p')
    yield A('pal.gxf', MPEG2, **PAL, times=None, by_ffprobe=False)   # it counts half pictures, and ffprobe leaves out the last one
    dv = dict(size=(768, 576), stored=(720, 576))   # its pixels are 16:15
    yield A('pal.dv', '-c:v dvvideo -pix_fmt yuv420p -f dv', **dv)
    yield A('dv.avi', '-c:v dvvideo -pix_fmt yuv420p', **dv)
    yield A('raw.h264', PLAIN, by_ffprobe=False, is_quick=True)
    yield A('bframes.h264', X264, by_ffprobe=False)
    yield A('raw.hevc', '-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=12:pools=1:bframes=0 -pix_fmt yuv420p', by_ffprobe=False)
    yield A('raw.m2v', MPEG2, by_ffprobe=False)
    yield A('raw.m1v', '-c:v mpeg1video -q:v 3 -g 12', by_ffprobe=False)
    yield A('vp8.ivf', '-c:v libvpx -deadline realtime -cpu-used 8 -b:v 1M')
    yield A('ffv1.nut', '-c:v ffv1 -pix_fmt yuv420p')
    yield A('h263.3gp', '-c:v h263 -q:v 3', size=(384, 288), stored=(352, 288))
    yield A('gray.y4m', '-pix_fmt gray')
    yield A('anim.gif', '')
    yield A('rv10.rm', '-c:v rv10 -q:v 3', size=(352, 288), by_ffprobe=False)
    yield A('snow.nut', '-c:v snow -q:v 3 -strict -2')
    yield A('jpeg2000.mov', '-c:v jpeg2000 -q:v 3 -pix_fmt yuv420p')


def _clocks():
    late = lambda number: 10 + number / RATE
    yield A('late.mp4', PLAIN + '-output_ts_offset 10', times=late)
    yield A('late.mkv', PLAIN + '-output_ts_offset 10', times=late)
    yield A('late.ts', X264 + '-output_ts_offset 10', times=lambda number: number / RATE)
    # The clock of a transport stream begins anew after 26 hours; a little later each, because B-frames meet it in another order
    for later in range(4): yield A(f'wraps{later}.ts', X264 + f'-output_ts_offset {95441 + 0.04 * later:.2f}', by_ffprobe=False, is_quick=not later)
    yield A('wraps.mpg', MPEG2 + '-output_ts_offset 95442.3', by_ffprobe=False)
    yield A('sound_first.ts', X264 + '-c:a mp2', sound=True, before='-itsoffset 1', times=lambda number: 1 + number / RATE)
    yield A('editlist.mp4', make=remuxed(X264, '-ss', 0.6, '-i', 'WHOLE', '-c', 'copy'), count=35,
            numbers=lambda number: number + 15)   # the pictures before are needed to decode, and not to be shown
    delayed = lambda number: (number + 2) / RATE
    yield A('no_editlist.mp4', X264 + '-use_editlist 0', times=delayed)
    yield A('fragments.mp4', X264 + '-movflags frag_keyframe+empty_moov', times=delayed, is_quick=True)   # no edit list says that it begins at 0
    yield A('fragments_delayed.mp4', X264 + '-movflags frag_keyframe+empty_moov+delay_moov+default_base_moof')
    varying = lambda number: np.cumsum([0.0] + [(0.04, 0.08, 0.04, 0.5, 0.02)[i % 5] for i in range(COUNT)])[number]
    timing = "setpts='(floor(N/5)*0.68+gte(mod(N\\,5)\\,1)*0.04+gte(mod(N\\,5)\\,2)*0.08+gte(mod(N\\,5)\\,3)*0.04+gte(mod(N\\,5)\\,4)*0.5)/TB' "
    for name in ('vfr.mp4', 'vfr.mkv', 'vfr.ts', 'vfr.flv'):
        yield A(name, f'-vf settb=1/1000,{timing}-vsync passthrough -enc_time_base 1/1000 ' + X264, times=varying, is_quick=name == 'vfr.mp4')
    yield A('ntsc.mp4', X264, rate='30000/1001', times=lambda number: number * 1001 / 30000)
    yield A('ntsc.mpg', MPEG2, rate='30000/1001', times=lambda number: number * 1001 / 30000, by_ffprobe=False)   # which leaves out the last one
    yield A('film.ts', X264, rate='24000/1001', times=lambda number: number * 1001 / 24000)
    yield A('fast.mp4', X264, rate='60000/1001', times=lambda number: number * 1001 / 60000)
    yield A('fast.avi', PLAIN, rate=120, times=lambda number: number / 120)
    yield A('slow.mp4', X264, rate=1, times=lambda number: float(number))
    yield A('timelapse.mkv', PLAIN, rate='1/60', times=lambda number: 60.0 * number)
    part = dict(arguments=X264)
    yield A('joined.ts', make=joined(dict(part, count=25), dict(part, count=25, start=25)), by_ffprobe=False, is_quick=True)
    yield A('joined.mkv', make=joined(dict(part, count=25), dict(part, count=25, start=25)), by_ffprobe=False)
    yield A('joined_late.ts', make=joined(dict(part, count=25, arguments=X264 + '-output_ts_offset 500'), dict(part, count=25, start=25)), by_ffprobe=False)
    yield A('joined_ahead.ts', make=joined(dict(part, count=25), dict(part, count=25, start=25, arguments=X264 + '-output_ts_offset 50000')), by_ffprobe=False)
    yield A('joined.mpg', make=joined(dict(count=25, arguments=MPEG2), dict(count=25, start=25, arguments=MPEG2)), by_ffprobe=False)
    yield A('joined_short.ts', make=joined(dict(part, count=10), dict(part, count=15, start=10), dict(part, count=25, start=25)), by_ffprobe=False)
    yield A('other_size.ts', make=joined(dict(part, count=25), dict(part, count=25, start=25, size=(480, 360))), by_ffprobe=False)
    for back_s in (0.5, 1.9, 2.5):   # the second clock begins where the first one already was
        for suffix, arguments in (('ts', X264), ('mpg', MPEG2)):
            yield A(f'back{back_s}.{suffix}', by_ffprobe=False, make=joined(
                dict(count=25, arguments=arguments + '-output_ts_offset 10'), dict(count=25, start=25, arguments=arguments + f'-output_ts_offset {11 - back_s}')))
    for suffix, arguments in (('ts', X264), ('mpg', MPEG2)):
        yield A(f'three.{suffix}', by_ffprobe=False, is_quick=suffix == 'mpg', make=joined(*(
            dict(count=count, start=start, arguments=arguments + f'-output_ts_offset {offset}') for count, start, offset in ((20, 0, 5000), (15, 20, 300), (15, 35, 80000)))))
    for suffix in ('mp4', 'mkv', 'mov', 'flv'):
        yield A(f'sound_first.{suffix}', X264 + '-vsync passthrough -c:a aac', sound=True, before='-itsoffset 1', times=lambda number: 1 + number / RATE)
    yield A('late.mov', X264 + '-output_ts_offset 10', times=late)
    yield A('late.webm', '-c:v libvpx -deadline realtime -cpu-used 8 -b:v 1M -output_ts_offset 10', times=late)
    yield A('open_gop.mp4', '-c:v libx264 -preset ultrafast -threads 1 -x264-params bframes=2:b-adapt=0:keyint=12:open-gop=1:scenecut=0 -pix_fmt yuv420p')
    yield A('one_key.mp4', '-c:v libx264 -preset ultrafast -threads 1 -x264-params bframes=3:keyint=1000:scenecut=0 -pix_fmt yuv420p')
    yield A('pyramid.mkv', '-c:v libx264 -preset veryfast -threads 1 -x264-params bframes=8:b-adapt=0:b-pyramid=normal:keyint=30 -pix_fmt yuv420p')
    yield A('refresh.ts', '-c:v libx264 -preset ultrafast -threads 1 -x264-params bframes=0:intra-refresh=1:keyint=20 -pix_fmt yuv420p')


def _tracks():
    yield A('sound.mp4', X264 + '-c:a aac', sound=True)
    two = ('-filter_complex [0:v]scale=160:120[s];[0:v]copy[l] -map [s] -map [l] ' + PLAIN)
    yield A('two_tracks.mp4', two, by_ffprobe=False, is_quick=True)
    yield A('two_tracks.mkv', two, by_ffprobe=False)
    yield A('two_tracks.ts', two, by_ffprobe=False)
    def with_cover(path, folder):
        whole, cover = encode(folder / '.parts' / f'{path.stem}.mp4', PLAIN), folder / '.parts' / 'cover.jpg'
        _ffmpeg('-f', 'lavfi', '-i', 'color=red:size=640x480:duration=0.04', '-frames:v', '1', cover)
        _ffmpeg('-i', whole, '-i', cover, '-map', '1', '-map', '0', '-c', 'copy', '-disposition:v:0', 'attached_pic', path)
    yield A('cover.mp4', make=with_cover, by_ffprobe=False)
    def with_attachment(path, folder):
        whole, cover = encode(folder / '.parts' / f'{path.stem}.mkv', PLAIN), folder / '.parts' / 'art.jpg'
        _ffmpeg('-f', 'lavfi', '-i', 'color=red:size=640x480:duration=0.04', '-frames:v', '1', cover)
        _ffmpeg('-i', whole, '-map', '0', '-c', 'copy', '-attach', cover, '-metadata:s:1', 'mimetype=image/jpeg', path)
    yield A('cover.mkv', make=with_attachment, by_ffprobe=False)
    yield A('timecode.mov', X264 + '-timecode 10:00:00:00')
    def with_text(path, folder):
        text = folder / '.parts' / 'text.srt'
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text('1\n00:00:00,500 --> 00:00:01,500\nhello\n')
        whole = encode(folder / '.parts' / f'{path.stem}.mp4', X264)
        _ffmpeg('-i', whole, '-i', text, '-map', '1', '-map', '0', '-c:v', 'copy', '-c:s', 'srt', path)
    yield A('subtitles.mkv', make=with_text)


def _shapes():
    for angle in (90, 180, 270):
        def make(path, folder, angle=angle):
            turn = {90: 'transpose=1', 180: 'hflip,vflip', 270: 'transpose=2'}[angle]
            whole = encode(folder / '.parts' / f'{path.stem}.mp4', f'-vf {turn} ' + X264)
            _ffmpeg('-i', whole, '-c', 'copy', '-metadata:s:v:0', f'rotate={angle}', path)
        yield A(f'turned{angle}.mp4', make=make, is_quick=angle == 90)
    for name, vf, matrix in (('mirrored', 'hflip', (-1, 0, 0, 1)), ('upended', 'vflip', (1, 0, 0, -1)), ('transposed', 'transpose=0', (0, 1, 1, 0)),
                             ('transversed', 'transpose=3', (0, -1, -1, 0))):
        yield A(f'{name}.mp4', make=lambda path, folder, vf=vf, matrix=matrix: _told_mirrored(path, vf, matrix), is_quick=name == 'mirrored')
    yield A('wide_pixels.ts', '-vf scale=240:240,setsar=4/3 ' + X264)
    yield A('wide_pixels.mov', '-vf scale=240:240,setsar=4/3 ' + X264)
    yield A('lower_first.ts', '-vf setfield=bff -flags +ildct+ilme ' + MPEG2)
    yield A('ten_bits.mp4', '-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=12:pools=1 -pix_fmt yuv420p10le')
    yield A('wide_pixels.mp4', '-vf scale=240:240,setsar=4/3 ' + X264)
    yield A('tall_pixels.mkv', '-vf scale=320:180,setsar=3/4 ' + X264, size=(320, 240))
    yield A('interlaced.ts', '-vf setfield=tff -flags +ildct+ilme -alternate_scan 1 ' + MPEG2, is_quick=True)
    yield A('interlaced.mp4', '-vf setfield=tff -c:v libx264 -preset ultrafast -threads 1 -flags +ildct+ilme -x264-params tff=1:bframes=2:keyint=12 -pix_fmt yuv420p')
    yield A('full_range.mp4', '-vf scale=out_range=full -color_range pc ' + X264)
    yield A('yuv444.mkv', X264.replace('yuv420p', 'yuv444p'))
    yield A('yuv422.mkv', X264.replace('yuv420p', 'yuv422p'))
    yield A('rgb.mkv', '-c:v libx264rgb -preset ultrafast -threads 1')
    yield A('gray.mkv', X264.replace('yuv420p', 'gray'))
    yield A('odd_size.mkv', '-c:v ffv1 -pix_fmt rgb24', size=(321, 243))
    yield A('hd.mp4', PLAIN, size=(1280, 720), count=25)
    yield A('tiny.mp4', X264, size=(68, 36), slack=90)


def _damaged():
    hurt = dict(is_damaged=True, by_ffprobe=False)
    yield A('cut.ts', X264, spoil=cut(0.6), knows_its_end=False, **hurt)
    yield A('cut.mkv', X264, spoil=cut(0.6), **hurt)
    yield A('cut.avi', PLAIN, spoil=cut(0.6), **hurt)
    yield A('cut.flv', X264, spoil=cut(0.6), **hurt)
    yield A('cut.wmv', '-c:v wmv2 -q:v 3', spoil=cut(0.6), **hurt, is_quick=True)
    yield A('cut.mxf', MPEG2, spoil=cut(0.6), **hurt)
    yield A('cut.webm', '-c:v libvpx -deadline realtime -cpu-used 8 -b:v 1M', spoil=cut(0.6), **hurt)
    yield A('cut.mov', X264 + '-movflags faststart', spoil=cut(0.6), **hurt)
    yield A('cut.mp4', X264 + '-movflags faststart', spoil=cut(0.6), **hurt, is_quick=True)
    yield A('cut_fragments.mp4', X264 + '-movflags frag_keyframe+empty_moov', spoil=cut(0.6), times=lambda number: (number + 2) / RATE, knows_its_end=False, **hurt)
    yield A('cut.mpg', MPEG2, spoil=cut(0.6), knows_its_end=False, **hurt)
    yield A('hole.ts', X264, spoil=packets_missing(0.4, 0.5), **hurt, is_quick=True)
    yield A('hole_unaligned.ts', X264, spoil=hole(0.4, 0.5), **hurt)
    yield A('hole.mpg', MPEG2, spoil=hole(0.4, 0.5), **hurt)
    yield A('hole.mkv', X264, spoil=hole(0.4, 0.5), **hurt)
    yield A('zeroed.ts', X264, spoil=zeroed(0.4, 0.45), **hurt)
    yield A('zeroed.mp4', X264 + '-movflags faststart', spoil=zeroed(0.5, 0.55), **hurt)
    yield A('zeroed.avi', '-c:v mpeg4 -q:v 3', spoil=zeroed(0.4, 0.45), **hurt)
    yield A('zeroed_bframes.avi', X264, spoil=zeroed(0.4, 0.45), **hurt)
    yield A('noise.ts', X264, spoil=bits_flipped(6), **hurt)
    yield A('noise.mp4', X264 + '-movflags faststart', spoil=bits_flipped(6), **hurt)
    # A decoder that guesses paints over these, and says nothing
    for seed in (1, 2): yield A(f'flipped{seed}.mp4', X264 + '-movflags faststart', spoil=bits_flipped(3, seed), **hurt, is_quick=seed == 1)
    # What lacks the pictures it needs never comes out
    yield A('hole_hevc.mkv', '-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=12:pools=1 -pix_fmt yuv420p', spoil=hole(0.4, 0.5), **hurt)
    yield A('hole_vp9.webm', '-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 1M', spoil=hole(0.4, 0.5), **hurt)
    yield A('begins_inside.ts', '-c:v libx264 -preset ultrafast -threads 1 -x264-params keyint=20:scenecut=0 -pix_fmt yuv420p',
            spoil=packets_missing(0.0, 0.25), times=None, **hurt)
    yield A('garbage_first.h264', PLAIN, spoil=lambda content: b'\x55' * 5000 + content, **hurt)
    yield A('zeroed_leading.avi', '-c:v mpeg4 -q:v 3 -bf 2', spoil=zeroed(0.4, 0.45), **hurt)
    yield A('hole_long.mpg', MPEG2, spoil=hole(0.35, 0.7), **hurt)
    yield A('hole_short.mpg', MPEG2, spoil=hole(0.52, 0.54), **hurt)
    yield A('hole_hevc.ts', '-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=12:pools=1 -pix_fmt yuv420p', spoil=packets_missing(0.4, 0.5), **hurt)
    yield A('hole_mpeg2.ts', MPEG2, spoil=packets_missing(0.4, 0.5), **hurt)
    yield A('refresh_hole.ts', '-c:v libx264 -preset ultrafast -threads 1 -x264-params bframes=0:intra-refresh=1:keyint=20 -pix_fmt yuv420p',
            spoil=packets_missing(0.4, 0.5), **hurt)


ANIMALS = {animal.name: animal for kind in (_codecs, _clocks, _tracks, _shapes, _damaged) for animal in kind()}


def make(animal, folder):
    "The file"
    path = Path(folder) / animal.name
    if animal.make: animal.make(path, Path(folder))
    else:
        encode(path, animal.encode, animal.count, animal.rate, animal.stored or animal.size, animal.sound, animal.before)
    if animal.spoil: path.write_bytes(animal.spoil(path.read_bytes()))
    return path


def probed(path):
    "Times of the frames that ffprobe shows, on the clock that counts from the file's start except in MP4 and Matroska"
    done = subprocess.run(['ffprobe', '-v', 'quiet', '-select_streams', 'v:0', '-show_entries', 'frame=best_effort_timestamp_time:format=start_time,format_name',
                           '-of', 'json', str(path)], capture_output=True, text=True)
    found = json.loads(done.stdout)
    is_from_zero = any(name in found['format']['format_name'] for name in ('mp4', 'matroska'))
    origin_s = 0.0 if is_from_zero else float(found['format'].get('start_time') or 0)
    return [float(frame['best_effort_timestamp_time']) - origin_s for frame in found['frames'] if 'best_effort_timestamp_time' in frame]


def _moments(path, **options):
    with VideoReader(path, **options) as reader: return [(index, time_s) for index, time_s, _ in reader.moments()]


def _elsewhere(path, whole):
    "What differs when reading begins in the middle, or leaves pictures out"
    wrong, middle_s = [], whole[len(whole) * 3 // 5][1]
    if _moments(path, start_s=middle_s) != [moment for moment in whole if moment[1] >= middle_s - 1e-6]:
        wrong.append(f'a start at {middle_s:.2f} s finds other pictures')
    rate = 5 / (whole[-1][1] - whole[0][1])
    grid = Grid(rate)
    if _moments(path, fps=rate) != [moment for moment in whole if grid.wants(moment[1])]: wrong.append('sampling finds other pictures')
    return wrong


def differences(animal, path):
    "What is wrong with how the file is read, in words; nothing when all is read or told"
    with VideoReader(path) as reader: frames = list(reader)
    losses, wrong = reader.losses, []
    if not frames: return ['no picture']
    end_s = video_info(path).duration_s
    last = frames[-1].time_s
    if animal.spoil is None and abs(end_s - last - (np.median(np.diff([f.time_s for f in frames])) if len(frames) > 1 else 0)) > 1.5 / eval(str(animal.rate)):
        wrong.append(f'ends at {end_s:.3f} s, its last picture begins at {last:.3f} s')
    if any(later.time_s <= sooner.time_s for sooner, later in zip(frames, frames[1:])): wrong.append('times go back')
    seen, shift_s = {}, None
    for frame in frames:
        number = number_in(frame.image)
        if not animal.is_damaged and frame.image.shape[1::-1] != animal.size and animal.name != 'other_size.ts':
            wrong.append(f'picture of {frame.image.shape[1::-1]}')
        if damage_of(frame.image, number) > animal.slack:
            wrong.append(f'broken picture at {frame.time_s:.2f} s is not told ({damage_of(frame.image, number):.0f} gray levels)')
        if number in seen: wrong.append(f'picture {number} is shown twice')
        seen[number] = frame.time_s
    def is_told(time_s): return any(loss.start_s - 0.02 <= time_s <= loss.end_s + 0.02 for loss in losses)
    if animal.times is not None:
        # Sound may begin a little before the picture, and then counts as the beginning
        before_s = frames[0].time_s - animal.times(0) if animal.sound and not animal.is_damaged and frames[0].time_s - animal.times(0) < 0.06 else 0.0
        for k in range(animal.count):
            if not animal.knows_its_end and animal.times(k) > last: break
            number, time_s = animal.numbers(k), animal.times(k) + before_s
            if number in seen and abs(seen[number] - time_s) > 2e-3 and not any(abs(l.end_s - l.start_s) < 1e-9 for l in losses):
                wrong.append(f'picture {number} at {seen[number]:.3f} s instead of {time_s:.3f} s')
            if number not in seen and not is_told(time_s): wrong.append(f'picture {number} at {time_s:.3f} s is missing and not told')
    if not animal.is_damaged:
        lost = [loss for loss in losses if loss.end_s > loss.start_s]
        if lost: wrong.append(f'told as lost: {"; ".join(map(str, lost))}')
        if [frame.index for frame in frames] != list(range(len(frames))): wrong.append('numbers of pictures have holes')
    if not animal.is_damaged: wrong += _elsewhere(path, [(frame.index, frame.time_s) for frame in frames])
    if animal.by_ffprobe:
        theirs = probed(path)
        ours = [frame.time_s for frame in frames]
        if len(theirs) != len(ours): wrong.append(f'{len(ours)} pictures, {len(theirs)} by ffprobe')
        elif np.abs(np.subtract(theirs, ours)).max() > 2e-3: wrong.append(f'times are up to {np.abs(np.subtract(theirs, ours)).max():.3f} s from those of ffprobe')
    return list(dict.fromkeys(wrong))


if __name__ == '__main__':
    folder, *names = sys.argv[1:]
    bad = 0
    for name in names or ANIMALS:
        began = time.monotonic()
        try: found = differences(ANIMALS[name], make(ANIMALS[name], folder))
        except Exception as error: found = [f'{type(error).__name__}: {error}']
        bad += bool(found)
        print(f'{name:24} {time.monotonic() - began:5.1f} s  ' + ('; '.join(found[:4]) + (f' … {len(found)}' if len(found) > 4 else '') if found else 'as put in'), flush=True)
    print(f'{len(names or ANIMALS)} files, {bad} with unreported differences')
