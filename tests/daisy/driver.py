"""Answer questions about daisy's dependency graphs, one JSON object per line.

Runs inside an environment that has daisy (1.2.3 or 2.0.0) and imports nothing else outside the
standard library. It never schedules or runs a block: it only builds graphs and lists them.

Each question is answered in a forked child, so that a hang, an abort or a memory blow-up in daisy
costs one answer and not the driver.

Questions
---------
A *tiling* is ``{"total_roi": ROI, "read_roi": ROI, "write_roi": ROI, "fit": "valid" | "overhang" |
"shrink", "conflict": bool}``, a ROI ``{"offset": [int, ...], "shape": [int, ...]}``. ``fit``
defaults to ``valid`` and ``conflict`` to true, as in daisy. Every question may carry ``timeout``,
in seconds, and ``echo``, any value, which comes back with the answer.

``{"ask": "version"}``
    ``{"version": str}``.
``{"ask": "tiling", **tiling}``
    ``{"blocks": [BLOCK, ...], "num_blocks": int, "num_levels": int, "refused": str | None}``, in
    daisy's enumeration order. ``refused`` is what daisy's scheduler raises when it is made, not
    run, from this task.
``{"ask": "subgraph", **tiling, "sub_roi": ROI, "by": "write" | "read"}``
    ``{"ids": [int, ...]}``, sorted: the blocks daisy says write (or read) inside ``sub_roi``.
``{"ask": "chain", "upstream": tiling, "downstream": tiling}``
    ``{"upstream": [BLOCK, ...], "downstream": [BLOCK, ...], "edges": EDGES, "reverse_edges":
    EDGES, "refused": str | None}``. EDGES are sorted ``[upstream id, downstream id]`` pairs between
    the two tasks: those that downstream blocks name (``edges``, what daisy's scheduler counts on)
    and those that upstream blocks name (``reverse_edges``, how it finds the blocks that became
    ready). They ought to be the same. Either is ``{"error": str}`` where daisy fails on it alone.
    Where the scheduler refuses the chain, they come from the graphs of the single tasks.

A BLOCK is ``{"id": int, "read": ROI, "write": ROI, "level": int, "upstream": [int, ...]}``;
``upstream`` are the sorted ids of the conflict neighbours that daisy puts before the block.
Anything that daisy raises, Rust panics included, is ``{"error": "TypeName: text"}``; a hang is
``{"error": "hang"}``, a process that died ``{"error": "died: ..."}``.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

import daisy

Json = dict[str, Any]
Neighbours = Callable[[Any], Iterable[Any]]

TIMEOUT = 20.0
"""Seconds until an unanswered question counts as a hang, unless it says otherwise."""

MEMORY = 8 << 30
"""Address space, in bytes, that answering one question may take."""

UPSTREAM, DOWNSTREAM = "upstream", "downstream"


def roi_from(spec: Json) -> daisy.Roi:
    """Return the daisy Roi of ``{"offset": [...], "shape": [...]}``."""
    return daisy.Roi(tuple(spec["offset"]), tuple(spec["shape"]))


def roi_to(roi: daisy.Roi) -> Json:
    """Return a Roi as plain integers; an unbounded or empty one may hold nulls."""
    return {
        "offset": [None if value is None else int(value) for value in roi.offset],
        "shape": [None if value is None else int(value) for value in roi.shape],
    }


def graph_of(task_id: str, tiling: Json) -> Any:
    """Return daisy's dependency graph of one task."""
    return daisy.BlockwiseDependencyGraph(
        task_id,
        roi_from(tiling["read_roi"]),
        roi_from(tiling["write_roi"]),
        tiling.get("conflict", True),
        tiling.get("fit", "valid"),
        total_read_roi=roi_from(tiling["total_roi"]),
    )


def task_of(task_id: str, tiling: Json, **more: Any) -> Any:
    """Return a daisy task that would do nothing."""
    return daisy.Task(
        task_id,
        roi_from(tiling["total_roi"]),
        roi_from(tiling["read_roi"]),
        roi_from(tiling["write_roi"]),
        lambda block: None,
        read_write_conflict=tiling.get("conflict", True),
        fit=tiling.get("fit", "valid"),
        **more,
    )


def records(graph: Any) -> list[Json]:
    """Return every block of a graph in enumeration order.

    Daisy 2 does not say which level a block is in. Both versions enumerate level after level,
    inside a level with ascending offsets, and every level starts below the start of the one before;
    so a new level begins exactly where the offsets descend.
    """
    found: list[Json] = []
    level, last = 0, None
    for block, upstream in graph.enumerate_all_dependencies():
        write = roi_to(block.write_roi)
        if last is not None and write["offset"] < last:
            level += 1
        last = write["offset"]
        found.append(
            {
                "id": int(block.block_id[1]),
                "read": roi_to(block.read_roi),
                "write": write,
                "level": level,
                "upstream": sorted(int(other.block_id[1]) for other in upstream),
            }
        )
    return found


def answer_version(question: Json) -> Json:
    """Return daisy's version."""
    return {"version": version("daisy")}


def answer_tiling(question: Json) -> Json:
    """Return the blocks of one task."""
    graph = graph_of("task", question)
    return {
        "blocks": records(graph),
        "num_blocks": int(graph.num_blocks),
        "num_levels": int(graph.num_levels),
        "refused": scheduled([task_of("task", question)])[1],
    }


def answer_subgraph(question: Json) -> Json:
    """Return the ids of the blocks that daisy finds for a region."""
    graph = graph_of("task", question)
    blocks = graph.get_subgraph_blocks(
        roi_from(question["sub_roi"]), read_roi=question["by"] == "read"
    )
    return {"ids": sorted(int(block.block_id[1]) for block in blocks)}


def answer_chain(question: Json) -> Json:
    """Return the blocks of two chained tasks and the edges between them."""
    graphs = {name: graph_of(name, question[name]) for name in (UPSTREAM, DOWNSTREAM)}
    first = task_of(UPSTREAM, question[UPSTREAM])
    both, refused = scheduled([task_of(DOWNSTREAM, question[DOWNSTREAM], upstream_tasks=[first])])
    needed: Neighbours
    freed: Neighbours
    if both is None:  # the parts of the graph still answer where the whole is refused

        def needed(block: Any) -> Iterable[Any]:
            found: Iterable[Any] = graphs[UPSTREAM].get_subgraph_blocks(block.read_roi)
            return found

        def freed(block: Any) -> Iterable[Any]:
            found: Iterable[Any] = graphs[DOWNSTREAM].get_subgraph_blocks(
                block.write_roi, read_roi=True
            )
            return found

    else:
        needed, freed = both.upstream, both.downstream
    return {
        **{name: records(graph) for name, graph in graphs.items()},
        "refused": refused,
        "edges": between(graphs[DOWNSTREAM], needed, UPSTREAM),
        "reverse_edges": between(graphs[UPSTREAM], freed, DOWNSTREAM),
    }


def scheduled(tasks: list[Any]) -> tuple[Any, str | None]:
    """Return the dependency graph of daisy's scheduler, or None and why it cannot be made."""
    try:
        return daisy.Scheduler(tasks).dependency_graph, None
    except BaseException as error:  # a Rust panic is a BaseException
        return None, described(error)


def between(graph: Any, neighbours: Neighbours, other_task: str) -> list[list[int]] | Json:
    """Return the edges that the blocks of one task name with another, upstream id first."""
    edges = set()
    try:
        for block, _ in graph.enumerate_all_dependencies():
            for other in neighbours(block):
                if other.block_id[0] == other_task:
                    pair = (int(other.block_id[1]), int(block.block_id[1]))
                    edges.add(pair if other_task == UPSTREAM else pair[::-1])
    except BaseException as error:  # a Rust panic is a BaseException
        return {"error": described(error)}
    return [list(pair) for pair in sorted(edges)]


ANSWERS = {
    "version": answer_version,
    "tiling": answer_tiling,
    "subgraph": answer_subgraph,
    "chain": answer_chain,
}


def described(error: BaseException) -> str:
    """Return an exception as ``TypeName: text``."""
    return f"{type(error).__name__}: {error}"


def answer(question: Json) -> Json:
    """Return the answer to one question, whatever daisy does short of hanging."""
    try:
        return ANSWERS[question["ask"]](question)
    except BaseException as error:  # a Rust panic is a BaseException
        traceback.print_exc()
        return {"error": described(error)}


def read_until(descriptor: int, deadline: float) -> bytes | None:
    """Return everything from a pipe, or None if its end does not come before the deadline."""
    parts: list[bytes] = []
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return None
        part = os.read(descriptor, 1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)


def guarded(question: Json) -> Json:
    """Return the answer of a forked child, or why there is none."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(json.dumps(answer(question)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    text = read_until(reading, time.monotonic() + question.get("timeout", TIMEOUT))
    os.close(reading)
    if text is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if text is None:
        return {"error": "hang"}
    if status != 0:
        return {"error": f"died: wait status {status}"}
    reply: Json = json.loads(text)
    return reply


def main() -> None:
    """Answer every line of standard input until it ends."""
    warnings.simplefilter("ignore")
    os.environ["RUST_BACKTRACE"] = "0"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what daisy prints must not look like an answer
    for line in sys.stdin:
        question = json.loads(line)
        reply = guarded(question)
        if "echo" in question:
            reply["echo"] = question["echo"]
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
