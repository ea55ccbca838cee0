"""gateway.yaml and the environment: read, validated, explained, reloaded."""
