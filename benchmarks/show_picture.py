"""Draw the picture of the README: what `rosetta show` prints, as an SVG.

python benchmarks/show_picture.py densenet.transition1 -o docs/show.svg
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from rich.console import Console

from common.view.side_by_side.lookup import find
from common.view.side_by_side.render import print_view

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("part", help="what to show: a network, a block, a layer or a training step")
parser.add_argument("-o", "--output", type=Path, required=True, help="the SVG to write")
parser.add_argument("--backends", default="torch,jax", help="the frameworks to show")
parser.add_argument("--width", type=int, default=158, help="columns of the terminal")
arguments = parser.parse_args()

console = Console(record=True, file=io.StringIO(), width=arguments.width, force_terminal=True, color_system="truecolor")
print_view(find(arguments.part), arguments.backends.split(","), console, arguments.width)
arguments.output.write_text(console.export_svg(title=f"rosetta show {arguments.part}"), encoding="utf-8")
