"""Cost of mechanisms: epsilon, noise, lifetime budget, a study's plan, an empirical bound."""
