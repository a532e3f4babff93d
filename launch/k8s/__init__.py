"""A sweep on Kubernetes: ``python -m launch.k8s``."""
