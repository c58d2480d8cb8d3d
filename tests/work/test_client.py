from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import Scene, line

from snakemake_blocks.errors import InputError
from snakemake_blocks.system.processes import process_start
from snakemake_blocks.work import supervisor, worker_pool
from snakemake_blocks.work.client import Client

LOOP = """
    from snakemake_blocks import Client

    def loop():
        before = os.getpid()
        client = Client()
        while True:
            with client.acquire_block() as block:
                if block is None:
                    break
                {body}
"""

SCRIPT = """
import os, sys
sys.path.insert(0, os.getcwd())
from functions import *
from snakemake_blocks import Client

client = Client()
while True:
    with client.acquire_block() as block:
        if block is None:
            break
        {body}
"""

START = """
    import subprocess, sys

    def start_subprocess_worker():
        subprocess.run([sys.executable, "script.py"]{check})
"""


@pytest.fixture
def pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers make the pipes to their scripts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def loop(scene: Scene, body: str, **more: object) -> None:
    """Plan a function that loops over its blocks itself."""
    scene.functions(LOOP.format(body=body))
    scene.plan(line(function="functions:loop", call="worker", shape=(6,), **more))


def script(scene: Scene, body: str, *, check: str = "", **more: object) -> None:
    """Plan a function that starts a script which loops over the blocks."""
    scene.functions(START.format(check=check))
    (scene.folder / "script.py").write_text(SCRIPT.format(body=body))
    scene.plan(
        line(function="functions:start_subprocess_worker", call="worker", shape=(6,), **more)
    )


EVERY = Counter({str(n): 1 for n in range(6)})


class TestInProcess:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_every_block_once(self, scene: Scene, workers: int) -> None:
        loop(scene, "note(block)", workers=workers)
        assert scene.run().complete
        assert Counter(scene.called) == EVERY

    def test_set_up_before_the_loop_is_paid_once(self, scene: Scene) -> None:
        loop(scene, "note(block, before)")
        assert scene.run().complete
        assert {call[2] for call in scene.calls} == {scene.calls[0][1]}

    def test_an_exception_fails_the_block_and_the_loop_goes_on(self, scene: Scene) -> None:
        loop(scene, "note(block); 1 / (block.index[0] != 2)", max_retries=1)
        assert (scene.run().failed, Counter(scene.called)) == (1, EVERY + Counter({"2": 1}))
        assert re.fullmatch(r"ZeroDivisionError at functions\.py:\d+", scene.failures()[0].cause)

    def test_failure_by_status(self, scene: Scene) -> None:
        body = "block.status = block.status.FAILED if block.index[0] == 2 else block.status.SUCCESS"
        loop(scene, body)
        result = scene.run()
        assert (result.done, result.failed) == (5, 1)
        assert "set block.status to FAILED" in scene.failures()[0].cause

    def test_a_client_for_every_block(self, scene: Scene) -> None:
        scene.functions(
            """
            from snakemake_blocks import Client
            def loop():
                while True:
                    with Client().acquire_block() as block:
                        if block is None: return
                        note(block)
            """
        )
        scene.plan(line(function="functions:loop", call="worker", shape=(6,)))
        assert scene.run().complete
        assert Counter(scene.called) == EVERY

    def test_a_function_that_takes_one_block_and_returns(self, scene: Scene) -> None:
        scene.functions(
            """
            from snakemake_blocks import Client
            def one():
                with Client().acquire_block() as block:
                    if block is not None: note(block)
            """
        )
        scene.plan(line(function="functions:one", call="worker", shape=(6,)))
        assert scene.run().complete
        assert Counter(scene.called) == EVERY
        assert len({call[1] for call in scene.calls}) == 6

    def test_returning_with_a_block_in_hand_fails_it(self, scene: Scene) -> None:
        scene.functions(
            """
            from snakemake_blocks import Client
            def keeps():
                taken = Client().acquire_block()
                block = taken.__enter__()
                note(block)
            """
        )
        scene.plan(line(function="functions:keeps", call="worker", shape=(2,), max_retries=1))
        result = scene.run()
        assert result.failed == 2
        assert Counter(scene.called) == {"0": 2, "1": 2}
        assert "dropped" in scene.failures()[0].cause

    def test_returning_with_a_block_kept_fails_it(self, scene: Scene) -> None:
        scene.functions(
            """
            from snakemake_blocks import Client
            def keeps():
                global taken
                taken = Client().acquire_block()
                note(taken.__enter__())
            """
        )
        scene.plan(line(function="functions:keeps", call="worker", shape=(2,)))
        assert scene.run().failed == 2
        assert "returned with a block in its hands" in scene.failures()[0].cause

    def test_asking_with_a_block_in_hand_fails_it(self, scene: Scene) -> None:
        scene.functions(
            """
            from snakemake_blocks import Client
            def greedy():
                client, taken = Client(), []
                while True:
                    taken.append(client.acquire_block())
                    block = taken[-1].__enter__()
                    if block is None: return
                    note(block)
            """
        )
        scene.plan(line(function="functions:greedy", call="worker", shape=(3,)))
        assert scene.run().failed == 3
        assert "another block was asked for" in scene.failures()[0].cause

    def test_never_asking_is_said(self, scene: Scene) -> None:
        scene.functions("def lazy(): pass")
        scene.plan(line(function="functions:lazy", call="worker"))
        stopped = scene.run().stopped
        assert stopped.startswith("the set-up failed: ")
        assert "functions:lazy returned without asking for a block" in stopped

    def test_raising_before_asking_is_a_failed_set_up(self, scene: Scene) -> None:
        scene.functions("def broken(): raise OSError('no GPU')")
        scene.plan(line(function="functions:broken", call="worker"))
        assert re.match("the set-up failed: OSError at functions.py:.*no GPU", scene.run().stopped)

    def test_raising_between_blocks_costs_nothing(self, scene: Scene) -> None:
        scene.functions(
            """
            from snakemake_blocks import Client
            def shaky():
                with Client().acquire_block() as block:
                    if block is not None: note(block)
                raise RuntimeError("between blocks")
            """
        )
        scene.plan(line(function="functions:shaky", call="worker", shape=(6,)))
        assert scene.run().complete
        assert Counter(scene.called) == EVERY

    def test_parameters(self, scene: Scene) -> None:
        scene.functions(LOOP.format(body="note(block, text)").replace("loop():", "loop(text):"))
        scene.plan(line(function="functions:loop", call="worker", params={"text": "hello"}))
        assert scene.run().complete
        assert {call[2] for call in scene.calls} == {"hello"}

    def test_checks(self, scene: Scene) -> None:
        scene.functions(
            LOOP.format(body="note(block)")
            + """
    def before(block): return block.index[0] < 2
    def after(block): return block.index[0] != 3
    """
        )
        task = line(
            function="functions:loop",
            call="worker",
            shape=(6,),
            check_function=("functions:before", "functions:after"),
        )
        scene.plan(task)
        result = scene.run()
        assert (result.done, result.failed) == (5, 1)
        assert sorted(scene.called) == ["2", "3", "4", "5"]

    def test_a_crash_in_the_loop(self, scene: Scene) -> None:
        body = "note(block); block.index[0] == 3 and attempts(block) == 1 and os.abort()"
        loop(scene, body, max_retries=1)
        assert scene.run().complete
        assert Counter(scene.called) == EVERY + Counter({"3": 1})


class TestScripts:
    """What the tutorial does: a function that starts a script as a subprocess."""

    @pytest.mark.parametrize("workers", [1, 2])
    def test_every_block_once(self, scene: Scene, workers: int) -> None:
        body = "note(block, os.getppid()); assert block.write_roi.shape == (10,); block.block_id"
        script(scene, body, workers=workers, check=", check=True")
        assert scene.run().complete
        assert Counter(scene.called) == EVERY
        assert len({call[1] for call in scene.calls}) <= workers

    def test_the_block_is_the_same(self, scene: Scene) -> None:
        body = "note(block, f'{block.block_id[1]}:{block.read_roi.begin[0]}:{block.task_id}')"
        script(scene, body, context=5, read_write_conflict=False)
        assert scene.run().complete
        task = scene.in_place.tasks["task"]
        wanted = {
            str(k): f"{task.block((k,)).block_id[1]}:{task.block((k,)).read_roi.begin[0]}:task"
            for k in range(6)
        }
        assert {call[0]: call[2] for call in scene.calls} == wanted

    def test_failures_have_the_scripts_line(self, scene: Scene) -> None:
        body = "note(block); 1 / (block.index[0] % 2)"
        script(scene, body)
        assert scene.run().failed == 3
        causes = {f.cause for f in scene.failures()}
        assert len(causes) == 1
        assert re.fullmatch(r"ZeroDivisionError at script\.py:\d+", causes.pop())
        assert 'script.py", line' in scene.failures()[0].trace

    def test_failure_by_status_and_the_check_after(self, scene: Scene) -> None:
        script(
            scene,
            "note(block); "
            "block.status = block.status.FAILED if block.index[0] == 1 else block.status",
            check_function=(None, "os.path:basename"),
        )
        scene.functions(
            START.format(check="") + "\n    def after(block): return block.index[0] != 4\n"
        )
        task = line(
            function="functions:start_subprocess_worker",
            call="worker",
            shape=(6,),
            check_function=(None, "functions:after"),
        )
        scene.plan(task)
        result = scene.run()
        assert (result.done, result.failed) == (4, 2)
        text = " ".join(f.cause for f in scene.failures())
        assert "the script set block.status to FAILED" in text
        assert "functions:after after the block says that it is not done" in text

    @pytest.mark.parametrize("end", ["os._exit(3)", "os.abort()", "os.kill(os.getpid(), 9)"])
    def test_a_script_that_dies_costs_one_attempt(self, scene: Scene, end: str) -> None:
        body = f"note(block); block.index[0] == 3 and attempts(block) == 1 and {end}"
        script(scene, body, max_retries=1)
        assert scene.run().complete
        assert Counter(scene.called) == EVERY + Counter({"3": 1})
        assert "the worker script ended with a block in its hands" in scene.failures()[0].cause

    def test_a_script_that_does_not_start(self, scene: Scene) -> None:
        script(scene, "pass", check=", check=True")
        (scene.folder / "script.py").write_text("import no_such_module")
        assert "CalledProcessError" in scene.run().stopped

    def test_a_timeout_ends_the_script(self, scene: Scene, pipes: Path) -> None:
        body = "note(block); import time; time.sleep(600 * (block.index[0] == 3))"
        script(scene, body, timeout=1.0)
        result = scene.run()
        assert (result.done, result.failed) == (5, 1)
        assert all(process_start(int(call[1])) is None for call in scene.calls)
        assert not list(pipes.glob("blocks-client-*"))

    def test_two_scripts_at_once_are_refused(
        self, scene: Scene, capfd: pytest.CaptureFixture[str]
    ) -> None:
        script(scene, "note(block); import time; time.sleep(0.3)")
        scene.functions(
            """
            import subprocess, sys
            def start_subprocess_worker():
                pair = [subprocess.Popen([sys.executable, "script.py"]) for _ in range(2)]
                for process in pair: process.wait()
            """
        )
        assert scene.run().complete
        assert Counter(scene.called) == EVERY
        assert "another script takes blocks from this worker" in capfd.readouterr().err

    @pytest.mark.parametrize("where", ["worker", "script"])
    def test_who_takes_blocks_dies_with_the_worker(self, scene: Scene, where: str) -> None:
        """Nobody would record what it does, nor keep others away from its block."""
        body = "note(block, os.getppid()); import time; time.sleep(600)"
        script(scene, body)
        process = subprocess.Popen([sys.executable, "-c", RUN.format(folder=str(scene.folder))])
        while not scene.calls:
            time.sleep(0.02)
        _, in_script, worker = scene.calls[0]
        victim = int(worker) if where == "worker" else process.pid
        os.kill(victim, signal.SIGKILL)
        give_up, alive = time.monotonic() + 5, {int(in_script), int(worker)}
        while alive and time.monotonic() < give_up:
            alive = {pid for pid in alive if process_start(pid) is not None}
            time.sleep(0.01)
        assert not alive, "it lives on"
        process.kill()
        process.wait()

    def test_pipes_of_a_dead_job_are_removed_by_the_next_one(
        self, scene: Scene, pipes: Path
    ) -> None:
        first = "block.index[0] == 0 and attempts(block) == 1"
        script(scene, f"note(block); import time; time.sleep(600 * ({first}))")
        process = subprocess.Popen([sys.executable, "-c", RUN.format(folder=str(scene.folder))])
        while not scene.calls:
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert len(list(pipes.glob("blocks-client-*"))) == 1
        assert scene.run().complete
        assert not list(pipes.glob("blocks-client-*"))


# faults: kind 9
WHO = """note(block, f'{client.task_id} {client.worker_id} {client.context["logdir"]} '
            f'{client.context["hostname"] == os.uname().nodename}')"""


class TestWhoItIs:
    @pytest.mark.parametrize("start", [loop, script])
    def test_task_and_number(self, scene: Scene, start: Callable[..., None]) -> None:
        start(scene, WHO + "; import time; time.sleep(0.1)", workers=2)
        assert scene.run().complete
        logs = str(scene.root / "task" / "logs")
        told = {(call[1], *call[2:]) for call in scene.calls}
        assert sorted(x[1:] for x in told) == [("task", str(n), logs, "True") for n in (0, 1)]

    @pytest.mark.parametrize("start", [loop, script])
    def test_a_client_takes_daisys_argument_and_all_are_one_worker(
        self, scene: Scene, start: Callable[..., None]
    ) -> None:
        start(
            scene,
            "more = Client({'worker_id': '7', 'port': 1}), Client(context=None); "
            "note(block, f'{more[0].worker_id} {more[0].context[\"port\"]} {more[1].worker_id}')",
        )
        assert scene.run().complete
        assert {tuple(call[2:]) for call in scene.calls} == {("0", "1", "0")}

    @pytest.mark.parametrize("name", ["a:b=c", "new\nline", "\x1b[2J", "a,b"])
    def test_any_name(self, scene: Scene, name: str) -> None:
        scene.functions(LOOP.format(body="note(block, ascii(client.task_id).replace(' ', '_'))"))
        scene.plan(line(name, "functions:loop", call="worker"))
        assert scene.run(name).complete
        assert {call[2] for call in scene.calls} == {ascii(name)}


class TestMisuse:
    def clients(self, scene: Scene, code: str, **more: object) -> None:
        scene.functions(
            "from snakemake_blocks import Client\nimport threading\n" + textwrap.dedent(code)
        )
        scene.plan(line(function="functions:loop", call="worker", shape=(6,), **more))

    @pytest.mark.parametrize(
        "use", ["while client.acquire_block(): pass", "while Client().acquire_block(): pass"]
    )
    def test_without_with(self, scene: Scene, use: str) -> None:
        self.clients(scene, f"def loop():\n    client = Client()\n    {use}")
        assert "acquire_block() was called without `with`" in scene.run().stopped

    def test_a_second_thread_is_refused_and_the_first_goes_on(self, scene: Scene) -> None:
        self.clients(
            scene,
            """
            def other(client):
                try:
                    with client.acquire_block() as block:
                        note(block, "other")
                except Exception as error:
                    with open("refused.txt", "a") as file: print(error, file=file)
            def loop():
                client = Client()
                while True:
                    with client.acquire_block() as block:
                        if block is None: return
                        note(block)
                        thread = threading.Thread(target=other, args=(client,))
                        thread.start()
                        thread.join()
            """,
        )
        assert scene.run().complete
        assert Counter(scene.called) == EVERY
        assert {len(call) for call in scene.calls} == {2}, "the other thread had none"
        refused = Path("refused.txt").read_text().splitlines()
        assert len(refused) == 6
        assert all("another thread has this worker's block" in text for text in refused)

    def test_threads_that_take_turns(self, scene: Scene) -> None:
        self.clients(
            scene,
            """
            def one(client, ends):
                with client.acquire_block() as block:
                    if block is None: ends.append(1)
                    else: note(block, threading.get_ident())
            def loop():
                client, ends = Client(), []
                while not ends:
                    thread = threading.Thread(target=one, args=(client, ends))
                    thread.start()
                    thread.join()
            """,
        )
        assert scene.run().complete
        assert Counter(scene.called) == EVERY

    def test_threads_at_once_never_finish_each_others_blocks(self, scene: Scene) -> None:
        self.clients(
            scene,
            """
            import time
            def work(client):
                while True:
                    try:
                        with client.acquire_block() as block:
                            if block is None: return
                            time.sleep(0.01)
                            note(block)
                    except Exception:
                        time.sleep(0.001)
            def loop():
                client = Client()
                threads = [threading.Thread(target=work, args=(client,)) for _ in range(4)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
            """,
        )
        assert scene.run().complete
        assert Counter(scene.called) == EVERY

    @pytest.mark.parametrize("start", [loop, script])
    def test_a_block_of_an_earlier_turn_ends_no_other(
        self, scene: Scene, start: Callable[..., None]
    ) -> None:
        """Left in the wrong order, only the newest counts."""
        body = """if block.index[0] == 2:
            second = client.acquire_block()
            newer = second.__enter__()
            note(newer, 'newer')
            continue
        note(block)"""
        if start is loop:
            body = body.replace("\n", "\n        ")
        start(scene, body)
        result = scene.run()
        assert (result.done, result.failed) == (4, 2)
        assert Counter(scene.called) == EVERY - Counter({"2": 1})
        assert {f.index for f in scene.failures()} == {(2,), (3,)}

    def test_after_the_end_there_is_none(self, scene: Scene) -> None:
        self.clients(
            scene,
            """
            def loop():
                client = Client()
                while True:
                    with client.acquire_block() as block:
                        if block is None: break
                        note(block)
                for again in client, Client():
                    with again.acquire_block() as block:
                        assert block is None
                open("asked", "w").close()
            """,
        )
        assert scene.run().complete
        assert Counter(scene.called) == EVERY
        give_up = time.monotonic() + 5
        while not Path("asked").exists() and time.monotonic() < give_up:
            time.sleep(0.01)
        assert Path("asked").exists()

    def test_in_a_forked_process_is_refused(self, scene: Scene) -> None:
        self.clients(
            scene,
            """
            def loop():
                client = Client()
                while True:
                    with client.acquire_block() as block:
                        if block is None: return
                        if os.fork() == 0:
                            try:
                                client.acquire_block()
                            except Exception as error:
                                note(block, type(error).__name__)
                            os._exit(0)
                        os.wait()
            """,
        )
        assert scene.run().complete
        assert {call[2] for call in scene.calls} == {"InputError"}

    @pytest.mark.parametrize("spoil", ["os.chdir('/')", "os.close(1)", "os.environ.clear()"])
    def test_what_a_script_changes_is_put_right(self, scene: Scene, spoil: str) -> None:
        body = (
            f"os.fstat(1); note(block, os.getcwd()); block.index[0] == 1 and {spoil}; "
            "1 / (block.index[0] - 4)"
        )
        script(scene, body)
        result = scene.run()
        assert (result.done, result.failed) == (5, 1)
        assert {call[2] for call in scene.calls} == {str(scene.folder)}
        assert len({call[1] for call in scene.calls}) == 1

    @pytest.mark.parametrize("start", [loop, script])
    def test_one_that_does_not_end_after_its_last_block_is_ended(
        self, scene: Scene, start: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (worker_pool, supervisor):
            monkeypatch.setattr(module, "CLOSING_SECONDS", 0.5)
        body = """note(block, os.getpid())
        import threading, time
        threading.Thread(target=time.sleep, args=(600,)).start()"""
        if start is loop:
            body = body.replace("\n", "\n        ")
        start(scene, body)
        began = time.monotonic()
        assert scene.run().complete
        assert time.monotonic() - began < 10
        assert Counter(scene.called) == EVERY
        assert all(process_start(int(call[1])) is None for call in scene.calls)

    def test_exceptions_of_a_script_that_have_no_text(self, scene: Scene) -> None:
        body = r"raise Exception('\udcff' * 1_000_000) if block.index[0] else Hostile()"
        script(scene, "note(block); " + body)
        bad = "\nclass Hostile(Exception):\n    def __str__(self): raise OSError\nclient"
        text = Path("script.py").read_text().replace("\nclient", bad, 1)
        Path("script.py").write_text(text)
        assert scene.run().failed == 6
        causes = Counter(f.cause.split(" at ")[0] for f in scene.failures())
        assert causes == {"Exception": 5, "Hostile": 1}


RUN = """
import os, sys
sys.path.insert(0, {folder!r} + "/../..")
os.chdir({folder!r})
from pathlib import Path
from snakemake_blocks.work.job import work_sentinel
work_sentinel(Path("blocks/task/p0/0/0.json"), attempt=1, environment={{}})
"""


def test_outside_of_a_job() -> None:
    with pytest.raises(InputError, match="works inside a job only"):
        Client()


def test_when_the_worker_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEMAKE_BLOCKS_CLIENT", str(tmp_path / "none"))
    with pytest.raises(InputError, match="the worker that started this script is gone"):
        Client()
