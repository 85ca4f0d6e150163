"""`python -m worldformula`."""

import sys

from worldformula.cli import main

sys.exit(main())
