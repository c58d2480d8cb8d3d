"""Summarise the attempts that `snakemake-blocks status --csv FILE` lists."""

import csv
import sys
from collections import Counter, defaultdict
from statistics import median

if __name__ == "__main__":
    with open(sys.argv[1], newline="") as file:
        attempts = list(csv.DictReader(file))
    seconds = defaultdict(list)
    for attempt in attempts:
        if attempt["event"] == "done":
            seconds[attempt["task"]].append(float(attempt["wall_seconds"]))
    for task, times in seconds.items():
        peak = max(int(a["peak_kib"]) for a in attempts if a["task"] == task) / 1024
        print(
            f"{task}: {len(times)} blocks, {median(times):.2f} s (median), "
            f"{max(times):.2f} s (longest), {sum(times):.1f} s in all, {peak:.0f} MiB at most"
        )
    times_done = Counter((a["task"], a["block"]) for a in attempts if a["event"] == "done")
    print(f"blocks that were done twice: {sum(n > 1 for n in times_done.values())}")
