"""`python -m passk`."""

import sys

from passk.cli import main

sys.exit(main())
