"""The command as its users run it: in a process of its own, or, since that takes seconds to start, in this one."""
import contextlib, io, os, subprocess, sys
from dataclasses import dataclass

from paligemma_vqa.command.cli import run as run_command

COMMAND = [sys.executable, '-c', 'from paligemma_vqa.command.program import main; main()']


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run_process(*arguments, timeout=300):
    "In a process"
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=os.environ | dict(HF_HUB_OFFLINE='1'))


def run(*arguments) -> Done:
    "The same, here"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = run_command([*map(str, arguments)])
    return Done(code, out.getvalue(), err.getvalue())


def fails(*arguments, says, code=2, how=run):
    "The command ends with `code` and one line that contains each of `says`"
    done = how(*arguments)
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith('Error:')]
    assert len(errors) == 1 and 'Traceback' not in done.stderr, done.stderr
    for text in says: assert text in errors[0], errors[0]
    assert not done.stdout.strip()
