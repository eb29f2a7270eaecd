"""What is tried next: Optuna studies over the ranges of a search space, and the link between them and Ray Tune."""
