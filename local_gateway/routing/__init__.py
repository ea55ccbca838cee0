"""Which target answers: routes, retries, failover, circuit breakers, cold-start fallback."""
