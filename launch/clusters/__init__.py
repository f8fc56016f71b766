"""What the launchers of clusters send: manifests and environments."""
