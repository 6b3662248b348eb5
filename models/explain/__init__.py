"""Why a model decided as it did, and what a night's triggers look like to it."""
