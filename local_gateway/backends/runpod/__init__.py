"""RunPod endpoints: queues (jobs) and load balancers (HTTP)."""
