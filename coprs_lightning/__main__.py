"""`python -m coprs_lightning` is `coprs`."""

import sys

from coprs_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
