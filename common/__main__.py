"""`python -m common` is the command `rosetta`."""

import sys

from common.cli.main import main

sys.exit(main())
