"""Events: their kinds, their light curves and their optimal S/N."""
