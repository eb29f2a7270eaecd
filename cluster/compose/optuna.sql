-- Run once, when the data folder is empty: the database of Optuna's studies, beside that of MLflow.
CREATE DATABASE optuna;
