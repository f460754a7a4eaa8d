"""Runs rendered Kubernetes manifests as real processes: see ../README.md."""
