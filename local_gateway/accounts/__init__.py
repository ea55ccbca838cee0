"""Who may do what and what it costs: API keys, limits, budgets, prices, usage records. Knows no database."""
