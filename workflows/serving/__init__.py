"""The scoring server: strips or frames in, scores or candidates out, with limits and a changing champion."""
