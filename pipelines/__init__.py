"""Kubeflow pipelines: they order components and name them for people; compile, run locally, and the console script."""
