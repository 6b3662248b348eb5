"""Compiled loops that several stages share. Numbers in, numbers out, no astronomy."""
