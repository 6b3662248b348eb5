"""How strong a trigger has to be. Alone, because settings are read before anything slow is imported."""

TRIGGER_THRESHOLD = 5.0  # S/N: about one noise trigger per amplifier-second; cosmic rays add 0.85
