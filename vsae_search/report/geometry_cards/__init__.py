"""Cards of the report of a geometry experiment, one file each."""
