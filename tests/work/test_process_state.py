"""Functions that change their process, end it, or leave something behind in it."""

# faults: kind 9
from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from faults import Scene, line


@pytest.fixture
def scene(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setenv("KEPT", "as it was")
    return scene


LOOK = """
    import fcntl, signal, stat, sys, threading, time

    def look(block):
        sys.stdout.write("") , sys.stderr.write("")
        mask = os.umask(0o022); os.umask(mask)
        same = [
            os.path.basename(os.getcwd()) == os.path.basename(os.path.dirname(os.environ["CALLS"])),
            os.environ.get("KEPT") == "as it was",
            "ADDED" not in os.environ,
            mask == 0o022,
            callable(signal.getsignal(signal.SIGTERM)),
            signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
            not signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            signal.getitimer(signal.ITIMER_REAL)[0] == 0,
            os.fstat(1).st_ino == FIRST[1] and os.fstat(2).st_ino == FIRST[2],
            not sys.stdout.closed and not sys.stderr.closed,
        ]
        note(block, "".join("-x"[s] for s in same))

    FIRST = {}

    def f(block):
        FIRST or FIRST.update({n: os.fstat(n).st_ino for n in (1, 2)})
        look(block)
        if block.index[0] == 1:
            spoil()
"""

SPOILS = [
    "os.chdir('/')",
    "os.environ['KEPT'] = 'changed'",
    "del os.environ['KEPT']",
    "os.environ.clear()",
    "os.environ['ADDED'] = '1'",
    "os.umask(0o077)",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})",
    "signal.alarm(1)",
    "sys.stdout.close(); sys.stderr.close()",
    "os.close(1); os.close(2)",
    "os.close(1); os.open('data.bin', os.O_RDWR | os.O_CREAT)",
    "sys.stdout = sys.stderr = None",
    "sys.stdout = open('elsewhere.txt', 'w')",
    "threading.Thread(target=time.sleep, args=(600,)).start()",
]


@pytest.mark.parametrize("call", ["block", "worker"])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("spoil", SPOILS)
def test_the_next_block_finds_everything_as_it_was(
    scene: Scene, spoil: str, fails: bool, call: str
) -> None:
    os.umask(0o022)
    last = "    raise ValueError('mine')" if fails else ""
    code = LOOK + f"\n    def spoil():\n        {spoil}\n    {last}\n"
    if call == "worker":
        code += """
    from snakemake_blocks import Client
    def loop():
        while True:
            with Client().acquire_block() as block:
                if block is None: return
                f(block)
    """
    scene.functions(code)
    function = "functions:f" if call == "block" else "functions:loop"
    scene.plan(line(function=function, call=call, shape=(4,)))
    result = scene.run()
    assert (result.done, result.failed) == (4 - fails, fails)
    assert {call[2] for call in scene.calls} == {"x" * 10}
    assert len({call[1] for call in scene.calls}) == 1, "the worker stays"
    if fails:
        assert re.fullmatch(r"ValueError at functions\.py:\d+", scene.failures()[0].cause)
    assert not os.path.exists("data.bin") or not os.path.getsize("data.bin")


def test_what_a_module_sets_as_it_is_imported_stays(scene: Scene) -> None:
    Path("sets_it.py").write_text("import os\nos.environ['SET_ONCE'] = 'yes'\n")
    scene.functions("def f(block): import sets_it; note(block, os.environ.get('SET_ONCE'))")
    scene.plan(line(function="functions:f"))
    assert scene.run().complete
    assert [call[2] for call in scene.calls] == ["yes"] * 4


def test_what_a_worker_function_does_before_its_loop_stays(scene: Scene) -> None:
    scene.functions(
        """
        from snakemake_blocks import Client
        def loop():
            os.makedirs("inner", exist_ok=True)
            os.chdir("inner")
            os.environ["ADDED"] = "before"
            while True:
                with Client().acquire_block() as block:
                    if block is None: return
                    note(block, os.path.basename(os.getcwd()) + os.environ["ADDED"])
        """
    )
    scene.plan(line(function="functions:loop", call="worker"))
    assert scene.run().complete
    assert {call[2] for call in scene.calls} == {"innerbefore"}


ENDS = {
    "os._exit(0)": "worker ended with exit status 0",
    "os._exit(3)": "worker ended with exit status 3",
    "sys.exit()": r"SystemExit at functions\.py:\d+",
    "sys.exit('text')": r"SystemExit at functions\.py:\d+",
    "raise KeyboardInterrupt": r"KeyboardInterrupt at functions\.py:\d+",
    "raise Hostile('str')": r"Hostile at functions\.py:\d+",
    "raise Hostile('exit')": r"Hostile at functions\.py:\d+",
    "raise ValueError('x' * 50_000_000)": r"ValueError at functions\.py:\d+",
    r"raise ValueError('\udcff\n\x1b[2J\0')": r"ValueError at functions\.py:\d+",
    "os.closerange(3, 1 << 12)": "worker ended with exit status [0-9]+|.*",
    "os.kill(os.getpid(), signal.SIGSTOP)": "worker took longer than the timeout of .*",
}


@pytest.mark.parametrize("end", ENDS)
def test_one_attempt_ends_with_a_named_cause(scene: Scene, end: str) -> None:
    scene.functions(
        f"""
    import signal, sys
    class Hostile(Exception):
        def __str__(self):
            if self.args[0] == "exit": sys.exit(3)
            raise RuntimeError("no text")
        __repr__ = __str__
    def f(block):
        note(block)
        if block.index[0] == 1 and attempts(block) == 1:
            {end}
    """
    )
    slow = {"timeout": 0.5} if "SIGSTOP" in end else {}
    scene.plan(line(function="functions:f", max_retries=1, **slow))
    assert scene.run().complete
    if "closerange" in end:
        assert set(scene.called) == {"0", "1", "2", "3"}
        return
    assert Counter(scene.called) == Counter({"0": 1, "1": 2, "2": 1, "3": 1})
    (failure,) = scene.failures()
    assert re.fullmatch(ENDS[end], failure.cause)
    assert len(failure.message) < 11_000 and len(failure.trace) < 101_000


def test_a_process_that_was_forked_and_comes_back_records_nothing(scene: Scene) -> None:
    scene.functions(
        """
        def f(block):
            note(block)
            if os.fork() == 0:
                return
            os.wait()
        """
    )
    scene.plan(line(function="functions:f", shape=(6,)))
    assert scene.run().complete
    assert Counter(scene.called) == Counter(map(str, range(6)))
    assert Counter(event for event, *_ in scene.events())["DONE"] == 6


def test_bytes_that_are_no_text(scene: Scene) -> None:
    scene.functions("def f(block): note(block); os.write(1, bytes(range(256))); 1 / block.index[0]")
    scene.plan(line(function="functions:f"))
    result = scene.run()
    assert (result.done, result.failed) == (3, 1)
