"""`python -m strop`: the command line, as torchrun needs it."""

import sys

from strop.cli import main

sys.exit(main())
