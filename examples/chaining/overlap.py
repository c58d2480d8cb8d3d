"""Show when the blocks of each task ran, from `snakemake-blocks status --csv FILE`."""

import argparse
import csv
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attempts", help="the CSV file")
    parser.add_argument("-o", "--output", default="overlap.png")
    asked = parser.parse_args()

    spans = defaultdict(list)
    with open(asked.attempts, newline="") as file:
        for row in csv.DictReader(file):
            spans[row["task"]].append((float(row["start"]), float(row["wall_seconds"])))
    zero = min(start for task in spans.values() for start, _ in task)
    figure, axis = plt.subplots(figsize=(8, 2.5))
    for height, (task, blocks) in enumerate(spans.items()):
        axis.broken_barh([(b - zero, s) for b, s in blocks], (height - 0.4, 0.8), alpha=0.5)
        begin, end = min(b for b, _ in blocks) - zero, max(b + s for b, s in blocks) - zero
        print(f"{task}: {len(blocks)} blocks, from {begin:.2f} s to {end:.2f} s")
    axis.set_yticks(range(len(spans)), list(spans))
    axis.set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(asked.output, dpi=100)
