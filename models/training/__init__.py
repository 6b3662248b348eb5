"""Train a model on labelled strips and keep its best epoch."""
