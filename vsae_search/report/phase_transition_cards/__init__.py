"""Cards of the report of a phase-transition experiment, one file each."""
