"A camera as many are: it serves JPEG pictures over HTTP for as long as someone looks, and can lose its network"
import socket, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2


class CameraServer:
    def __init__(self, pictures, fps=25):
        self.pictures = [cv2.imencode('.jpg', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes() for picture in pictures]
        self.fps, self.port, self.connections, self._server, self._open = fps, None, 0, None, set()
        self._began = time.monotonic()

    @property
    def address(self): return f'http://127.0.0.1:{self.port}/camera.mjpg'

    def start(self):
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                camera.connections += 1
                camera._open.add(self.connection)
                self.send_response(200)
                self.send_header('Content-Type', 'multipart/x-mixed-replace; boundary=picture')
                self.end_headers()
                try:
                    number = round((time.monotonic() - camera._began) * camera.fps)
                    while True:
                        data = camera.pictures[number % len(camera.pictures)]
                        self.wfile.write(b'--picture\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n' % len(data) + data + b'\r\n')
                        number += 1
                        time.sleep(max(0, camera._began + number / camera.fps - time.monotonic()))
                except OSError: pass   # nobody looks any more, or the network is gone
                finally: camera._open.discard(self.connection)

            def log_message(self, *_): pass

        class Server(ThreadingHTTPServer):
            allow_reuse_address, daemon_threads = True, True

        self._server = Server(('127.0.0.1', self.port or 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs=dict(poll_interval=0.05), daemon=True).start()
        return self

    def cut(self):
        "The network is gone: nobody listens, and who was connected hears nothing more"
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._open):
            try: connection.shutdown(socket.SHUT_RDWR)
            except OSError: pass

    def __enter__(self): return self.start()

    def __exit__(self, *_): self.cut()
