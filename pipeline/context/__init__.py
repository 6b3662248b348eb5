"""Measure what surrounds a trigger: its star, its time, its neighbours. Input of every learned detector."""
