"""Peaks of this machine: arithmetic and reading of each level of memory, on one core and on all of them.

Run `python -m benchmarks.limits`.
"""

from __future__ import annotations

from time import perf_counter

from skipjack.benchmark.limits import Limits, measure
from skipjack.session.teams import resolve_cores


def _rows(limits: Limits) -> list[tuple[str, str]]:
    int8 = "not on this target" if limits.int8_gops is None else f"{limits.int8_gops:.0f} GOP/s"
    rows = [("multiply-add f32", f"{limits.f32_gflops:.0f} GFLOP/s"), ("dot product int8", int8)]
    return rows + [(f"read {x.name}", f"{x.gb_per_s:.0f} GB/s") for x in limits.levels]


def main() -> None:
    cores = resolve_cores(0)
    start = perf_counter()
    measured = [measure(cores[:n]) for n in sorted({1, len(cores)})]
    seconds = perf_counter() - start
    print(f"{measured[0].target}, measured in {seconds:.1f} s")
    print(f"{'':20s}" + "".join(f"{f'{m.cores} core(s)':>20s}" for m in measured))
    for columns in zip(*map(_rows, measured), strict=True):
        print(f"{columns[0][0]:20s}" + "".join(f"{value:>20s}" for _, value in columns))


if __name__ == "__main__":
    main()
