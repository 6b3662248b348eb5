"""Commands, clusters, experiment tracking and reports around `shutterless.pipeline` and `shutterless.models`."""
