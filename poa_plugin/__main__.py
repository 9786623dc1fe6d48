"""`python -m poa_plugin` is the command `poa`."""

import sys

from poa_plugin.cli import main

sys.exit(main())
