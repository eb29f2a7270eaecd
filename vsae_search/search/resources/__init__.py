"""Where trials run: Ray, what a trial needs, how many share a machine, and how well they used it."""
