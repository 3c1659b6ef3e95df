"""Who may: tenants, and the keys that speak for them. Imports jobs and foundation."""
