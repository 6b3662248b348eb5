"""Pretrain a transformer without labels, by predicting hidden patches."""
