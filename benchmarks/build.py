"""Writes benchmark models: `python benchmarks/build.py [models...] [--variants fp32,p90,qdq]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT.parent)

from benchmarks.builders.registry import BUILDERS  # noqa: E402
from benchmarks.builders.variants import build  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"all of {', '.join(BUILDERS)} when left out")
    parser.add_argument("--out", type=Path, default=ROOT / "models")
    parser.add_argument("--variants", default="fp32", help="comma-separated: fp32, p90, p90-b4, qdq, p90-b4-qdqio, ...")
    parser.add_argument("--rebuild", action="store_true", help="write files that exist already once more")
    options = parser.parse_args()
    for model in options.models or BUILDERS:
        for variant in options.variants.split(","):
            build(options.out, model, variant, rebuild=options.rebuild)


if __name__ == "__main__":
    main()
