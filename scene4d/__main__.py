"""`python -m scene4d` is the command line."""

import sys

from scene4d.apps.cli import main

sys.exit(main())
