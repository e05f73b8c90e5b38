"""``python -m infodcl_geo``."""

import sys

from .cli import main

sys.exit(main())
