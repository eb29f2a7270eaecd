"""``python -m vsae_search``."""

from vsae_search.cli.app import main

if __name__ == "__main__":
    main()
