"""`python -m common` is the command `rosetta`."""

import sys

from common.cli import main

sys.exit(main())
