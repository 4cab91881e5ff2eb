"""``python -m safewright``."""

from safewright.cli import main

if __name__ == "__main__":
    main()
