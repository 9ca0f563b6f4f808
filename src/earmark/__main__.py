"""``python -m earmark`` is the ``earmark`` command."""

import sys

from earmark.cli import main

sys.exit(main())
