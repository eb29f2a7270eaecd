"""One card per file; every module here that defines ``CARD`` becomes part of the report."""
