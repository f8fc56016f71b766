"""Manifests and environments that the cluster launchers submit."""
