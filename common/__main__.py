"""Run `rosetta` as `python -m common`."""

import sys

from common.cli.main import main

sys.exit(main())
