"""The command line: one file per command, and the only room that talks to the terminal."""
