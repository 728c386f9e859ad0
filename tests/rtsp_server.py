"""An RTSP camera that can stall, lose its network, change its picture's size and ask for a password: GStreamer's server

Debian has it: `apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-{good,bad,ugly}`. It runs in a
process of its own with the system's Python, which is the one that Debian's packages belong to.
"""
import shutil
import socket
import subprocess

PYTHON = '/usr/bin/python3'
SERVER = '''
import sys, threading
import gi
gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
port, secret = sys.argv[1:]
server, factory, made = GstRtspServer.RTSPServer.new(), GstRtspServer.RTSPMediaFactory.new(), []
server.set_service(port)
factory.set_launch('( videotestsrc is-live=true pattern=ball ! valve name=valve ! videoscale ! '
                   'capsfilter name=size caps=video/x-raw,format=I420,width=320,height=240,framerate=25/1 ! '
                   'x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 config-interval=-1 )')
factory.set_shared(True)
factory.connect('media-configure', lambda _, media: made.append(media.get_element()))
if secret != '-':
    auth, token = GstRtspServer.RTSPAuth.new(), GstRtspServer.RTSPToken()
    token.set_string('media.factory.role', 'user')
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*secret.split(':')), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions.new()
    permissions.add_permission_for_role('user', 'media.factory.access', True)
    permissions.add_permission_for_role('user', 'media.factory.construct', True)
    factory.set_permissions(permissions)
server.get_mount_points().add_factory('/camera', factory)
server.attach(None)
def listen():
    for line in sys.stdin:
        what, *words = line.split()
        for element in made:
            if what == 'stall': element.get_by_name('valve').set_property('drop', words == ['1'])
            if what == 'size': element.get_by_name('size').set_property('caps', Gst.Caps.from_string(
                'video/x-raw,format=I420,width=%s,height=%s,framerate=25/1' % tuple(words)))
threading.Thread(target=listen, daemon=True).start()
print('ready', flush=True)
GLib.MainLoop().run()
'''


def is_here() -> bool:
    "Whether this machine has GStreamer's server"
    if not shutil.which(PYTHON): return False
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; Gst.init(None); " \
           "assert Gst.ElementFactory.find('x264enc') and Gst.ElementFactory.find('rtph264pay')"
    return subprocess.run([PYTHON, '-c', code], capture_output=True).returncode == 0


class RtspServer:
    "A camera at `address`; use it in a `with`"
    def __init__(self, secret='-'):   # user:password
        self.secret, self._process = secret, None
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            self.port = free.getsockname()[1]

    @property
    def address(self): return f'rtsp://127.0.0.1:{self.port}/camera'

    def start(self):
        self._process = subprocess.Popen([PYTHON, '-c', SERVER, str(self.port), self.secret], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout.readline() == 'ready\n'
        return self

    def tell(self, words): self._process.stdin.write(words + '\n'); self._process.stdin.flush()

    def cut(self):
        if self._process: self._process.kill(); self._process.wait()

    def __enter__(self): return self.start()

    def __exit__(self, *_): self.cut()
