"""One file per family of metrics; every file in this directory is found by itself."""
